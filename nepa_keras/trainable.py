"""Which variables of a model are trained."""

from collections.abc import Sequence

import keras


def freeze(model: keras.Model, names: Sequence[str]) -> None:
    """Takes variables out of the training of a built model.

    Args:
        names: of variables or layers, as whole parts of the variables' paths: "block_1" is not "block_10".

    Raises:
        ValueError: no variable has a name.
    """
    for name in names:
        found = [v for v in model.weights if f"/{name.strip('/')}/" in f"/{v.path}/"]
        if not found:
            known = ", ".join(v.path for v in model.weights[:3])
            raise ValueError(f"There is no variable {name!r} to freeze; names are like {known}.")
        for variable in found:
            variable.trainable = False


def check_trainable(model: keras.Model) -> None:
    """Refuses to train nothing, or around integer kernels, which stay as they are."""
    if not model.trainable_variables:
        raise ValueError(
            f"All of {model.name} is frozen, so there is nothing to train; set trainable = True on what is "
            "to be trained, and compile again."
        )
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode in (None, "float8") or getattr(layer, "lora_enabled", False):
            continue
        if layer.trainable_variables:
            raise ValueError(
                f"{layer.path} is quantized to {mode}, so its kernel cannot be trained: quantize after "
                "training, or quantize the backbone alone and train adapters by backbone.enable_lora(rank)."
            )
