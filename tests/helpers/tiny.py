"""Small models and images for tests that need no reference numbers."""

import keras
import numpy as np

import nepa_keras
from nepa_keras.training import adamw
from tests.helpers.tolerances import assert_close

TINY = dict(
    image_shape=(8, 8, 1),
    patch_size=4,
    hidden_dim=16,
    num_layers=2,
    num_heads=2,
    mlp_dim=24,
    layer_scale=0.5,
    rope_rescale=None,  # no random draw: runs can be compared
)

# What a step of pretraining reports.
LOGS = {
    "loss",
    "gradient_norm",
    "learning_rate",
    "prediction_spread",
    "target_spread",
    "skipped_steps",
}


def backbone(**overrides) -> nepa_keras.NepaBackbone:
    """2 layers, 16 wide, 8x8 grey images in 4 patches."""
    return nepa_keras.NepaBackbone(**(TINY | overrides))


def pretrainer(seed: int = 0, **overrides) -> nepa_keras.NepaPretrainer:
    """A pretrainer of a tiny backbone, the same weights for the same seed; see `spread_weights`."""
    objective = ("shift", "stop_gradient", "masking_ratio")
    chosen = {name: overrides.pop(name) for name in objective if name in overrides}
    model = nepa_keras.NepaPretrainer(backbone(**overrides), **chosen)
    spread_weights(model, seed)
    return model


def spread_weights(model: keras.Model, seed: int = 0) -> None:
    """Weights far from their initial values, as at 0.02 every part is nearly the identity."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        centre = 1.0 if variable.path.endswith(("gamma", "scale")) else 0.0
        variable.assign(centre + 0.3 * generator.standard_normal(variable.shape).astype("float32"))


def compile_model(model: keras.Model, optimizer="sgd", **arguments) -> None:
    """Compile a model like `model.compile`, but on TensorFlow without XLA unless asked for.

    XLA compiles each tiny step for seconds. The golden and the parity tests use the default, and
    `test_compiled_and_eager_agree` compares the two.
    """
    if keras.backend.backend() == "tensorflow":
        arguments = {"jit_compile": False, **arguments}
    model.compile(optimizer=optimizer, **arguments)


def compiled_pretrainer(
    seed: int = 0, optimizer=None, compile_arguments: dict | None = None, **overrides
):
    """A tiny pretrainer with the recipe's optimizer."""
    model = pretrainer(seed, **overrides)
    optimizer = optimizer or adamw(1e-2, ema_decay=0.9)
    compile_model(model, optimizer, **(compile_arguments or {}))
    return model


def images(count: int = 8, shape=(8, 8, 1), seed: int = 0) -> np.ndarray:
    """Normalised random images (count, *shape) float32."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def weights(model: keras.Model) -> list[np.ndarray]:
    """Copies of the trainable weights."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]


def float_of(tensor) -> np.ndarray:
    """A tensor or variable of any dtype as float32."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def relative_distance(found, expected) -> float:
    """|found - expected| / |expected| over all outputs of a model, or tensors of one structure."""
    found, expected = (
        np.concatenate([float_of(x).ravel() for x in keras.tree.flatten(each)])
        for each in (found, expected)
    )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def assert_same_weights(first, second, kind: str = "same_numbers") -> None:
    """Compare the trainable weights within a tolerance of `tests/helpers/tolerances.py`."""
    pairs = zip(weights(first), weights(second), first.trainable_variables, strict=True)
    for a, b, variable in pairs:
        assert_close(a, b, kind, variable.path)


def optimizer_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of everything the optimizer holds: step, rate, slots, averages."""
    return {
        f"{i}:{v.path}": np.array(keras.ops.convert_to_numpy(v))
        for i, v in enumerate(model.optimizer.variables)
    }


def exported(preset: str, folder, **arguments):
    """The folder, with fresh weights of a preset's architecture as official ones; for the scripts."""
    backbone = nepa_keras.NepaBackbone.from_preset(preset, load_weights=False, **arguments)
    nepa_keras.interop.export_huggingface(nepa_keras.NepaPretrainer(backbone), folder)
    return folder
