"""Features of every block, and the probes that are trained on them."""

import keras
import numpy as np
import pytest

from nepa_keras import data, evaluation
from nepa_keras.evaluation import AFTER_NORM, FeatureSets
from tests.helpers import tiny


@pytest.fixture
def backbone():
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    return backbone


@pytest.mark.parametrize("causal", [False, True])
def test_features_are_those_of_each_block(backbone, causal):
    """Against the eager pass that keeps everything."""
    images = tiny.images(5)
    sets = FeatureSets(backbone, causal)
    found = sets.extract(images, batch_size=2)
    inside = backbone.activations(images, causal=causal)
    states = [keras.ops.convert_to_numpy(s) for s in inside["hidden_states"][1:]]
    states.append(keras.ops.convert_to_numpy(inside["sequence_output"]))
    pools = {
        "mean": lambda x: x[:, 1:].mean(axis=1),
        "last": lambda x: x[:, -1],
        "cls": lambda x: x[:, 0],
    }
    assert len(sets.names) == (backbone.num_layers + 1) * (2 if causal else 3)
    for block, pool in sets.names:
        assert not (causal and pool == "cls")
        np.testing.assert_allclose(
            found[block, pool], pools[pool](states[block]), rtol=1e-4, atol=2e-5
        )
    assert np.abs(found[0, "mean"] - found[AFTER_NORM, "mean"]).max() > 0.1


def test_batches_of_a_source_give_the_same_features(backbone):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    sets = FeatureSets(backbone, False, blocks=(1,), pools=("last",))
    expected = sets.extract(images)
    found, indices = evaluation.predict_batches(sets, data.OrderedBatches(images, 3, 8))
    assert found.shape == (7, 1, 16) and list(expected) == [(1, "last")]
    np.testing.assert_array_equal(indices, np.arange(7))
    np.testing.assert_allclose(found[:, 0], expected[1, "last"], atol=1e-5)


def test_the_probe_of_all_patches(backbone):
    tokens = evaluation.extract_features(backbone, tiny.images(3), pool="patches")
    mean = evaluation.extract_features(backbone, tiny.images(3))
    np.testing.assert_allclose(tokens.mean(axis=1), mean, rtol=1e-4, atol=1e-5)


def separable(rows: int, seed: int, classes: int = 3, width: int = 8):
    """Classes on lines through 0: their mean is the same, but for an offset in one dimension each."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    x = generator.standard_normal((rows, width)).astype("float32")
    x[np.arange(rows), labels] += 6.0
    return 100.0 * x + 1000.0, labels


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_sgd_probe_finds_what_is_linear_whatever_the_scale(scale):
    """Offset and scale are taken away, without which this rate would diverge or do nothing."""
    (x, labels), (test_x, test_labels) = separable(300, 0), separable(200, 1)
    rows = x * np.float32(scale), labels, test_x * np.float32(scale), test_labels
    assert evaluation.sgd_probe_accuracy(*rows, epochs=20) > 0.95


def test_the_sgd_probe_finds_nothing_in_noise():
    x, labels = separable(300, 0)
    noise = np.random.default_rng(2).permutation(labels)
    chance = evaluation.sgd_probe_accuracy(x, noise, *separable(200, 1), epochs=5)
    assert chance < 0.6


def test_the_attentive_probe_finds_the_patch_that_tells():
    """One patch of twelve, at a random place, is marked and names the class; the mean hides it."""

    def examples(rows, seed):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 4, rows)
        tokens = generator.standard_normal((rows, 12, 16)).astype("float32")
        place = generator.integers(0, 12, rows)
        tokens[np.arange(rows), place, 8:] = 0.0
        tokens[np.arange(rows), place, 8] = 8.0
        tokens[np.arange(rows), place, labels] += 4.0
        return tokens, labels

    train, test = examples(1500, 0), examples(400, 1)
    attentive = evaluation.sgd_probe_accuracy(*train, *test, epochs=30, base_learning_rate=0.3)
    means = [(tokens.mean(axis=1), labels) for tokens, labels in (train, test)]
    linear = evaluation.sgd_probe_accuracy(*means[0], *means[1], epochs=30)
    assert attentive > 0.9 and attentive > linear + 0.1


def test_the_attentive_pool_is_saved_with_its_model(tmp_path):
    model = keras.Sequential([keras.Input((5, 8)), evaluation.AttentivePool(2)])
    model.save(tmp_path / "probe.keras")
    again = keras.saving.load_model(tmp_path / "probe.keras")
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again(x)), expected, atol=1e-6)
    assert expected.shape == (3, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"blocks": (9,)}, "blocks go from 0 to 1, or -1; got 9"),
        ({"pools": ("max",)}, "pools are mean, last and cls; got max"),
        ({"pools": ("cls",), "causal": True}, "no features to take"),
    ],
)
def test_wrong_arguments_are_refused(backbone, arguments, words):
    with pytest.raises(ValueError, match=words):
        FeatureSets(backbone, **{"causal": False, **arguments})
