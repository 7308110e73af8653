"""Every layer of the library keeps the contract of a Keras layer.

One harness over all of them: configuration round trip, dtype policies, symbolic against eager
shapes, a real `fit`, and save / load of a model that holds the layer.
"""

import inspect
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras import evaluation, layers, training
from tests.helpers import tiny

BATCH = 4


@keras.saving.register_keras_serializable(package="nepa_keras_tests")
class RotarySum(keras.layers.Layer):
    """x * cos + sin: the rotary tables, which take a grid and no tensor, as a layer of a tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rotary = layers.RotaryEmbedding(
            8, shift=0.1, jitter=1.2, seed=1, dtype=self.dtype_policy
        )
        self.built = True

    def call(self, x, training=False):
        cos, sin = self.rotary(grid=(2, 2), training=training)
        return x * ops.cast(cos, x.dtype) + ops.cast(sin, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


class Case(NamedTuple):
    """A layer's constructor, input and output."""

    layer: type
    arguments: dict
    input_shape: tuple  # without the batch
    output_shape: tuple
    call: Mapping = MappingProxyType({})
    # What a layer in mixed precision returns: norms and sums of the residual stream stay float32.
    mixed_dtype: str = "bfloat16"


TOKENS = (5, 8)
HEADS = {"num_heads": 2, "qk_norm_scale": True, "qk_norm_bias": True}
CASES = {
    "Linear": Case(layers.Linear, {"units": 6}, TOKENS, (5, 6)),
    "Linear without bias": Case(layers.Linear, {"units": 6, "use_bias": False}, (8,), (6,)),
    "Linear with adapters": Case(layers.Linear, {"units": 6, "lora_rank": 2}, TOKENS, (5, 6)),
    "LayerNorm": Case(layers.LayerNorm, {}, TOKENS, TOKENS),
    "LayerNorm bare": Case(
        layers.LayerNorm, {"epsilon": 1e-6, "scale": False, "center": False}, TOKENS, TOKENS
    ),
    "MLP": Case(layers.MLP, {"mlp_dim": 12}, TOKENS, TOKENS),
    "MLP gated": Case(layers.MLP, {"mlp_dim": 12, "gated": True}, TOKENS, TOKENS),
    "MLP relu": Case(layers.MLP, {"mlp_dim": 12, "activation": "relu"}, TOKENS, TOKENS),
    "LayerScale": Case(layers.LayerScale, {"initial_value": 0.1}, TOKENS, TOKENS),
    "DropPath": Case(layers.DropPath, {"rate": 0.3, "seed": 1}, TOKENS, TOKENS),
    "PatchEmbedding": Case(
        layers.PatchEmbedding,
        {"hidden_dim": 8, "patch_size": 4},
        (8, 12, 2),
        (7, 8),
        mixed_dtype="float32",
    ),
    "SequenceEmbedding": Case(
        layers.SequenceEmbedding,
        {"layer": keras.layers.Conv1D(8, 4, strides=4)},
        (24, 2),
        (7, 8),
        mixed_dtype="float32",
    ),
    "PositionEmbedding": Case(layers.PositionEmbedding, {"grid": [2, 2]}, TOKENS, TOKENS),
    "RotaryEmbedding": Case(RotarySum, {}, TOKENS, TOKENS),
    "SelfAttention": Case(layers.SelfAttention, {"num_heads": 2}, TOKENS, TOKENS),
    "SelfAttention causal": Case(
        layers.SelfAttention,
        {**HEADS, "qkv_bias": False, "dropout": 0.1},
        TOKENS,
        TOKENS,
        call={"causal": True},
    ),
    "ConvNorm": Case(layers.ConvNorm, {"filters": 6, "kernel_size": 3}, (4, 5, 8), (4, 5, 6)),
    "Upsample2x": Case(layers.Upsample2x, {"filters": 6}, (4, 5, 8), (8, 10, 6)),
    "FCNHead": Case(
        layers.FCNHead, {"num_classes": 3, "channels": 6, "dropout": 0.1}, (4, 5, 8), (4, 5, 3)
    ),
    "TransformerBlock": Case(
        layers.TransformerBlock,
        {"num_heads": 2, "mlp_dim": 12},
        TOKENS,
        TOKENS,
        mixed_dtype="float32",
    ),
    "TransformerBlock full": Case(
        layers.TransformerBlock,
        {
            **HEADS,
            "mlp_dim": 12,
            "gated_mlp": True,
            "activation": "gelu",
            "layer_scale": None,
            "drop_path": 0.2,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "epsilon": 1e-6,
        },
        TOKENS,
        TOKENS,
        call={"causal": True},
        mixed_dtype="float32",
    ),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def inputs(case: Case, count: int = BATCH) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *case.input_shape)).astype("float32")


def functional_model(case: Case) -> tuple[keras.Model, keras.layers.Layer]:
    """input -> the layer -> mean over tokens -> Dense(1), in float32 at the end."""
    layer = case.layer(**case.arguments)
    x = keras.Input(case.input_shape)
    y = layer(x, **case.call)
    if len(y.shape) > 2:
        y = ops.mean(ops.cast(y, "float32"), axis=tuple(range(1, len(y.shape) - 1)))
    return keras.Model(x, keras.layers.Dense(1, dtype="float32")(y)), layer


def test_the_harness_covers_every_layer():
    exported = {getattr(layers, name) for name in layers.__all__}
    exported = {layer for layer in exported if issubclass(layer, keras.layers.Layer)}
    tested = {case.layer for case in CASES.values()} - {RotarySum} | {layers.RotaryEmbedding}
    of_several_maps = {layers.FeaturePyramid, layers.UPerNetHead}  # in test_upernet.py
    assert tested | of_several_maps == exported


@ALL
def test_config_round_trip(case):
    """The configuration is plain JSON, names every argument, and makes the same layer again."""
    layer = case.layer(**case.arguments, name="it")
    config = json.loads(json.dumps(layer.get_config()))
    for name, value in case.arguments.items():
        if isinstance(value, keras.layers.Layer):
            value = json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
        assert config[name] == value, name
    assert case.layer.from_config(config).get_config() == layer.get_config()
    saved = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(saved)))
    assert type(again) is case.layer and again.get_config() == layer.get_config()


def test_rotary_config_round_trip():
    arguments = {
        "head_dim": 8,
        "theta": 50.0,
        "rescale": 3.0,
        "shift": 0.1,
        "jitter": 1.5,
        "extent": 2.0,
        "axes": 3,
        "seed": 4,
    }
    layer = layers.RotaryEmbedding(**arguments)
    config = json.loads(json.dumps(layer.get_config()))
    assert {name: config[name] for name in arguments} == arguments
    assert layers.RotaryEmbedding.from_config(config).get_config() == layer.get_config()


# Of each exported class that is saved with its configuration: a value for every argument.
BACKBONE = {
    **tiny.TINY,
    "image_shape": (8, 12, 2),
    "gated_mlp": True,
    "activation": "gelu",
    "qkv_bias": False,
    "qk_norm": True,
    "qk_norm_scale": True,
    "qk_norm_bias": True,
    "drop_path_rate": 0.1,
    "dropout_rate": 0.2,
    "attention_dropout_rate": 0.3,
    "use_causal_mask": False,
    "use_mask_token": True,
    "rope_theta": 50.0,
    "rope_rescale": 3.0,
    "rope_shift": 0.1,
    "rope_jitter": 1.5,
    "layer_norm_epsilon": 1e-6,
    "remat": True,
    "rope_extent": 2.0,
    "embedding": keras.layers.Conv2D(16, 4, strides=4, name="patches"),
    "position_embedding": "learned",
}
ARGUMENTS = {
    layers.Linear: {"units": 6, "use_bias": False, "kernel_initializer": None},
    layers.LayerNorm: {"epsilon": 1e-6, "scale": False, "center": False},
    layers.MLP: {"mlp_dim": 12, "gated": True, "activation": "relu"},
    layers.LayerScale: {"initial_value": 0.1},
    layers.DropPath: {"rate": 0.3, "seed": 1},
    layers.PatchEmbedding: {"hidden_dim": 8, "patch_size": 4, "use_mask_token": True},
    layers.SequenceEmbedding: {
        "layer": keras.layers.Conv1D(8, 4, strides=4),
        "use_mask_token": True,
    },
    layers.PositionEmbedding: {"grid": (2, 3)},
    layers.RotaryEmbedding: {
        "head_dim": 8,
        "theta": 50.0,
        "rescale": 3.0,
        "shift": 0.1,
        "jitter": 1.5,
        "extent": 2.0,
        "axes": 3,
        "seed": 4,
    },
    layers.SelfAttention: {
        "num_heads": 2,
        "qkv_bias": False,
        "qk_norm": False,
        "qk_norm_scale": True,
        "qk_norm_bias": True,
        "dropout": 0.1,
        "epsilon": 1e-6,
    },
    layers.TransformerBlock: {
        "num_heads": 2,
        "mlp_dim": 12,
        "gated_mlp": True,
        "activation": "gelu",
        "qkv_bias": False,
        "qk_norm": False,
        "qk_norm_scale": True,
        "qk_norm_bias": True,
        "layer_scale": 0.5,
        "drop_path": 0.2,
        "dropout": 0.1,
        "attention_dropout": 0.3,
        "epsilon": 1e-6,
    },
    layers.ConvNorm: {"filters": 6, "kernel_size": 3},
    layers.Upsample2x: {"filters": 6},
    layers.FeaturePyramid: {"width": 8},
    layers.FCNHead: {"num_classes": 3, "channels": 6, "dropout": 0.2},
    layers.UPerNetHead: {"num_classes": 3, "channels": 6, "pool_bins": (1, 2), "dropout": 0.2},
    nepa_keras.NepaBackbone: BACKBONE,
    nepa_keras.NepaPretrainer: {
        "backbone": tiny.backbone(use_mask_token=True),
        "shift": False,
        "stop_gradient": False,
        "masking_ratio": 0.5,
        "seed": 3,
    },
    nepa_keras.NepaImageClassifier: {
        "backbone": tiny.backbone(),
        "num_classes": 2,
        "pooling": "last",
        "use_causal_mask": True,
        "class_names": ("a", "b"),
        "frozen": ("block_0",),
        "multi_label": True,
    },
    nepa_keras.NepaImageSegmenter: {
        "backbone": tiny.backbone(),
        "num_classes": 2,
        "head": "upernet",
        "taps": (0, 0, 1, 1),
        "channels": 8,
        "dropout": 0.2,
        "auxiliary_weight": 0.3,
        "ignore_label": 7,
        "freeze_backbone": True,
        "class_names": ("a", "b"),
        "frozen": ("block_0",),
    },
    nepa_keras.EmbeddingRollout: {"backbone": tiny.backbone(), "norm": 2.0},
    evaluation.AttentivePool: {"num_heads": 2},
    training.AdamW: {
        "learning_rate": 0.5,
        "weight_decay": 0.1,
        "beta_1": 0.8,
        "beta_2": 0.9,
        "epsilon": 1e-6,
        "clip_norm": 2.0,
        "ema_decay": 0.5,
        "accumulation_steps": 2,
        "embedding_learning_rate_factor": 3.0,
        "name": "it",
    },
}


def test_every_saved_class_has_its_arguments_here():
    kinds = (keras.layers.Layer, keras.optimizers.Optimizer)
    for module in (nepa_keras, layers, evaluation, training):
        for exported in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(exported) and issubclass(exported, kinds):
                assert exported in ARGUMENTS or "get_config" not in vars(exported), exported


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
def test_every_argument_is_an_attribute(kind):
    """Under its name and with its value; the configuration has all, and makes the same again."""
    arguments = ARGUMENTS[kind]
    named = {
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert named == set(arguments)
    made = kind(**arguments)
    config = made.get_config()
    assert named <= set(config)
    for name, value in arguments.items():
        if value is None:  # of which the default is made
            continue
        held = getattr(made, name)
        if isinstance(held, keras.Variable):
            held = float(ops.convert_to_numpy(held))
        assert held is value or held == value, name
    plain = json.loads(json.dumps(config))
    assert json.loads(json.dumps(kind.from_config(plain).get_config())) == plain


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@ALL
def test_dtype_policy_and_shapes(case, policy):
    """Variables are float32; symbolic, eager and computed shapes and dtypes are the same."""
    layer = case.layer(**case.arguments, dtype=policy)
    symbolic = layer(keras.Input(case.input_shape), **case.call)
    eager = layer(inputs(case), **case.call)
    expected = "float32" if policy == "float32" else case.mixed_dtype
    assert tuple(symbolic.shape) == (None, *case.output_shape)
    assert tuple(eager.shape) == (BATCH, *case.output_shape)
    assert layer.compute_output_shape((BATCH, *case.input_shape)) == tuple(eager.shape)
    assert keras.backend.standardize_dtype(symbolic.dtype) == expected
    assert keras.backend.standardize_dtype(eager.dtype) == expected
    for variable in layer.trainable_variables:
        assert variable.dtype == "float32", variable.path
    values = ops.convert_to_numpy(ops.cast(eager, "float32"))
    assert np.all(np.isfinite(values))
    if policy != "float32":
        reference = case.layer(**case.arguments)
        reference.build((None, *case.input_shape))
        for target, source in zip(reference.variables, layer.variables, strict=True):
            target.assign(source)
        exact = ops.convert_to_numpy(reference(inputs(case), **case.call))
        # bfloat16 keeps 8 bits: a few roundings of values of about 3.
        np.testing.assert_allclose(values, exact, atol=0.06)


def test_norms_attention_and_rope_are_float32_inside_mixed_precision():
    """Parts that the recipe keeps in float32 are not computed from rounded values."""
    policy = keras.DTypePolicy("mixed_bfloat16")
    norm = layers.LayerNorm(dtype=policy)
    x = 1000.0 + np.random.default_rng(0).standard_normal((64, 32)).astype("float32")
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
    y = ops.convert_to_numpy(ops.cast(norm(ops.cast(x, "bfloat16")), "float32"))
    variance = rounded.var(axis=-1, keepdims=True)
    expected = (rounded - rounded.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-12)
    expected[variance[:, 0] == 0] = 0.0
    np.testing.assert_allclose(y, expected, atol=0.02)  # one bfloat16 rounding of values up to 5

    attention = layers.SelfAttention(2, dtype=policy)
    tokens = ops.cast(np.random.default_rng(1).standard_normal((2, 300, 8)), "bfloat16")
    _, probabilities = attention(tokens, return_probabilities=True)
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    total = ops.convert_to_numpy(ops.sum(probabilities, axis=-1))
    np.testing.assert_allclose(total, 1.0, atol=1e-5)

    rotary = layers.RotaryEmbedding(8, dtype=policy)
    for table in rotary(grid=(2, 2)):
        assert keras.backend.standardize_dtype(table.dtype) == "float32"


@ALL
def test_fit_and_save(case, tmp_path):
    """A model holding the layer trains: every weight moves; saved and loaded it predicts the same."""
    model, layer = functional_model(case)
    x = inputs(case, 8)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    before = [np.array(ops.convert_to_numpy(v)) for v in layer.trainable_variables]
    history = model.fit(x, np.ones((8, 1)), batch_size=4, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    for variable, old in zip(layer.trainable_variables, before, strict=True):
        assert np.any(ops.convert_to_numpy(variable) != old), f"{variable.path} did not move"

    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    np.testing.assert_allclose(
        again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6, atol=1e-6
    )
