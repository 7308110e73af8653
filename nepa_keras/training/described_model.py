"""Description of a model in a checkpoint of a run, so that `from_preset` can read the checkpoint."""

import keras
import numpy as np

from nepa_keras.presets.folder import CONFIG, PREPROCESSOR
from nepa_keras.presets.official import official_variables
from nepa_keras.presets.preset import model_config, preprocessor_of_source
from nepa_keras.presets.training_state import ADAPTERS, describe_state
from nepa_keras.training.model_state import variables_by_name

_HOW_IT_RAN = ("dtype", "remat")  # settings of the training run, which the weights do not depend on


def describe_model(
    model: keras.Model, state: dict[str, np.ndarray], preprocessor: dict | None = None
) -> dict[str, dict]:
    """Return JSON files by name that make a checkpoint readable by `from_preset`; none for foreign models.

    Args:
        model: compiled, with a built optimizer.
        state: result of `model_state`.
        preprocessor: content of `preprocessor_config.json`; default that of the checkpoint the model was
            loaded from, if any.
    """
    if not hasattr(model, "from_preset"):
        return {}
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    kept = [*official_variables(model), *(v for v in model.weights if v.path.endswith(ADAPTERS))]
    weights = {v.path: names[id(v)] for v in kept}
    averages = {}
    optimizer = model.optimizer
    # Before the first step the averages are zeros.
    if getattr(optimizer, "averages", None) and state[names[id(optimizer.iterations)]] > 0:
        pairs = zip(optimizer.trainable_variables, optimizer.averages, strict=True)
        averages = {v.path: names[id(average)] for v, average in pairs if v.path in weights}
    adapters = {
        f"{layer.path}/kernel": layer.lora_alpha / layer.lora_rank
        for layer in model._flatten_layers()
        if getattr(layer, "lora_enabled", False)
    }
    config = model_config(model)
    for name in _HOW_IT_RAN:
        config["backbone"].pop(name, None)
    preprocessor = preprocessor or preprocessor_of_source(model)
    described = {CONFIG: config | describe_state(weights, averages, adapters)}
    return described | ({PREPROCESSOR: preprocessor} if preprocessor else {})
