"""Freezing of variables, and checks that a model can be trained."""

from collections.abc import Sequence

import keras


def freeze(model: keras.Model, names: Sequence[str]) -> None:
    """Exclude variables of a built model from training.

    Args:
        model: the model.
        names: names of variables or layers, matched as whole parts of a path: "block_1" is not "block_10".

    Raises:
        ValueError: no variable matches a name.
    """
    for name in names:
        found = [v for v in model.weights if f"/{name.strip('/')}/" in f"/{v.path}/"]
        if not found:
            known = ", ".join(v.path for v in model.weights[:3])
            raise ValueError(f"There is no variable {name!r} to freeze; names look like {known}.")
        for variable in found:
            variable.trainable = False


def check_trainable(model: keras.Model) -> None:
    """Refuse a model without trainable variables, or with a quantized layer that would be trained.

    Raises:
        ValueError: everything is frozen, or an integer kernel would have to be trained.
    """
    if not model.trainable_variables:
        raise ValueError(
            f"All of {model.name} is frozen, so there is nothing to train; set trainable = True on the "
            "layers to train, and compile again."
        )
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode in (None, "float8") or getattr(layer, "lora_enabled", False):
            continue
        if layer.trainable_variables:
            raise ValueError(
                f"{layer.path} is quantized to {mode}, so its kernel cannot be trained: quantize after "
                "training, or quantize the backbone alone and train adapters with backbone.enable_lora(rank)."
            )
