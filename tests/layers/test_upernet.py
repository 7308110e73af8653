"""UPerNet against the same network written with PyTorch's functions, on each backend."""

import json

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from nepa_keras import layers
from nepa_keras.layers.convolutions import average_pool
from tests.helpers.tolerances import assert_close

WIDTH, CHANNELS, CLASSES = 6, 5, 3


def maps(height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed).standard_normal
    return [draw((8, height, width, WIDTH), dtype="float32") for _ in range(4)]


def as_torch(x) -> torch.Tensor:
    """(B, h, w, C) -> (B, C, h, w)."""
    return torch.tensor(np.array(ops.convert_to_numpy(x))).permute(0, 3, 1, 2)


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


class Reference:
    """The forward pass in PyTorch from the weights of our layers, by their paths."""

    def __init__(self, *ours):
        self.values = {
            v.path: torch.tensor(np.array(ops.convert_to_numpy(v)))
            for layer in ours
            for v in layer.weights
        }

    def value(self, name: str) -> torch.Tensor:
        (found,) = (v for path, v in self.values.items() if path.endswith(name))
        return found

    def conv(self, x, name, bias=True):
        kernel = self.value(f"{name}/kernel").permute(3, 2, 0, 1)
        bias = self.value(f"{name}/bias") if bias else None
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def norm(self, x, name, training):
        mean, variance, gamma, beta = (
            self.value(f"{name}/{kind}").clone()
            for kind in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, training)

    def conv_norm(self, x, name, training):
        return F.relu(self.norm(self.conv(x, f"{name}/conv", bias=False), f"{name}/norm", training))

    def double(self, x, name):
        kernel = self.value(f"{name}/kernel").permute(0, 3, 1, 2)
        return F.conv_transpose2d(x, kernel, self.value(f"{name}/bias"), stride=2)

    def pyramid(self, inputs, training):
        first, second, third, fourth = inputs
        first = self.norm(self.double(first, "quadruple_first"), "quadruple_norm", training)
        first = self.double(F.gelu(first), "quadruple_second")
        return [first, self.double(second, "pyramid/double"), third, F.max_pool2d(fourth, 2)]

    def upernet(self, inputs, training):
        def up(x, size):
            return F.interpolate(x, size, mode="bilinear", align_corners=False)

        *larger, smallest = inputs
        pooled = [smallest]
        for bins in (1, 2, 3, 6):
            x = self.conv_norm(F.adaptive_avg_pool2d(smallest, bins), f"pool_{bins}", training)
            pooled.append(up(x, smallest.shape[-2:]))
        laterals = [self.conv_norm(x, f"lateral_{i}", training) for i, x in enumerate(larger)]
        laterals.append(self.conv_norm(torch.cat(pooled, 1), "bottleneck", training))
        for i in (3, 2, 1):
            laterals[i - 1] = laterals[i - 1] + up(laterals[i], laterals[i - 1].shape[-2:])
        outputs = [self.conv_norm(laterals[i], f"output_{i}", training) for i in range(3)]
        outputs.append(laterals[3])
        size = outputs[0].shape[-2:]
        x = torch.cat([outputs[0], *(up(x, size) for x in outputs[1:])], 1)
        return self.conv(self.conv_norm(x, "fuse", training), "classifier")


def built(dtype="float32"):
    """A pyramid and a head with weights far from their initial values."""
    pyramid = layers.FeaturePyramid(WIDTH, name="pyramid", dtype=dtype)
    head = layers.UPerNetHead(CLASSES, CHANNELS, dropout=0.0, name="decode_head", dtype=dtype)
    one = (None, None, None, WIDTH)
    pyramid.build(4 * [one])
    head.build(4 * [one])
    generator = np.random.default_rng(1)
    for variable in (*pyramid.weights, *head.weights):
        value = 0.3 * generator.standard_normal(variable.shape).astype("float32")
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(1.0 + np.abs(value) if positive else value)
    return pyramid, head


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 2)])
def test_upernet_has_the_parts_of_its_paper(training, size):
    pyramid, head = built()
    inputs = maps(*size)
    reference = Reference(pyramid, head)
    expected = reference.pyramid([as_torch(x) for x in inputs], training)
    found = pyramid(inputs, training=training)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ops.convert_to_numpy(ours), as_numpy(theirs), "states")
    logits = head(found, training=training)
    assert tuple(logits.shape) == (8, 4 * size[0], 4 * size[1], CLASSES)
    expected = as_numpy(reference.upernet(expected, training))
    assert_close(ops.convert_to_numpy(logits), expected, "states")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
def test_average_pooling_is_the_adaptive_one(height, width, bins):
    x = np.random.default_rng(0).standard_normal((1, height, width, 2)).astype("float32")
    expected = as_numpy(F.adaptive_avg_pool2d(as_torch(x), bins))
    assert_close(ops.convert_to_numpy(average_pool(x, bins)), expected, "same_numbers")


def test_the_moving_statistics_are_those_of_pytorch_but_for_its_unbiased_variance():
    layer = layers.ConvNorm(4)
    x = maps(3, 5)[0]
    layer(x, training=True)
    conv = np.array(ops.convert_to_numpy(layer.conv(x))).reshape(-1, 4)
    found = ops.convert_to_numpy(layer.norm.moving_mean)
    assert_close(found, 0.1 * conv.mean(axis=0), "same_numbers")
    found = ops.convert_to_numpy(layer.norm.moving_variance)
    assert_close(found, 0.9 + 0.1 * conv.var(axis=0), "same_numbers")


def test_a_convolution_starts_with_the_spread_that_keeps_that_of_gradients():
    layer = layers.ConvNorm(32, 3)
    layer.build((None, None, None, 64))
    kernel = ops.convert_to_numpy(layer.conv.kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.05)  # over fan-out


@pytest.mark.parametrize("layer", [0, 1])
def test_config_round_trip(layer):
    ours = built()[layer]
    config = json.loads(json.dumps(ours.get_config()))
    again = type(ours).from_config(config)
    assert again.get_config() == ours.get_config()


def test_mixed_precision_computes_in_it_and_stays_close():
    exact, mixed = built(), built("mixed_bfloat16")
    results = []
    for pyramid, head in (exact, mixed):
        logits = head(pyramid(maps(6, 8)))
        results.append(np.array(ops.convert_to_numpy(ops.cast(logits, "float32"))))
        kind = keras.backend.standardize_dtype(logits.dtype)
        assert kind == ("float32" if head is exact[1] else "bfloat16")
        assert all(v.dtype == "float32" for v in head.weights)
    # A dozen roundings to 8 bits on the way, of values up to a few units.
    scale = np.abs(results[0]).max()
    assert np.abs(results[1] - results[0]).max() < 0.05 * scale
