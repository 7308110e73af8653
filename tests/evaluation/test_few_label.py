"""Few-label fine-tuning: fair, repeatable, and one compiled program for all runs."""

from types import SimpleNamespace

import numpy as np
import pytest

from nepa_keras.evaluation import (
    FewLabelTrial,
    class_balanced_subset,
    few_label_accuracy,
    few_label_comparison,
)
from tests.helpers import tiny

OPTIONS = dict(num_labels=12, steps=5, batch_size=6, learning_rate=3e-3)


@pytest.fixture(scope="module")
def data():
    """Two classes that differ in brightness, so that a few steps learn them."""
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype="int32") % 2
    images = generator.integers(0, 90, (60, 8, 8, 1)) + 150 * labels[:, None, None, None]
    images = images.astype("uint8")
    return SimpleNamespace(
        train_images=images[:40],
        train_labels=labels[:40],
        test_images=images[40:],
        test_labels=labels[40:],
    )


def _arrays(data):
    return data.train_images, data.train_labels, data.test_images, data.test_labels


def _backbone():
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    return backbone


def test_layer_decay_slows_what_is_near_the_input(data):
    """A decay of 1e-6 leaves all below the last block where it was."""
    backbone = _backbone()
    trial = FewLabelTrial(backbone, *_arrays(data), **OPTIONS, layer_decay=1e-6)
    trial.run(0)
    before = dict(
        zip(
            [v.path.partition("/")[2] for v in backbone.trainable_variables],
            tiny.weights(backbone),
            strict=True,
        )
    )
    moved = {}
    for variable in trial.classifier.backbone.trainable_variables:
        path = variable.path.partition("/")[2]
        moved[path] = np.abs(np.array(variable) - before[path]).max()
    assert moved["block_1/mlp/up/kernel"] > 1e-3
    assert moved["block_0/mlp/up/kernel"] < 1e-6 and moved["patch_embedding/kernel"] < 1e-6


def test_a_run_does_not_depend_on_those_before_it(data):
    backbone = _backbone()
    before = tiny.weights(backbone)
    trial = FewLabelTrial(backbone, *_arrays(data), **OPTIONS)

    def run(seed, from_scratch):
        accuracy = trial.run(seed, from_scratch)
        return accuracy, tiny.weights(trial.classifier)

    first, first_weights = run(0, False)
    _, scratch_weights = run(0, True)
    again, again_weights = run(0, False)
    assert again == first
    for a, b in zip(first_weights, again_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert any(
        np.abs(a - b).max() > 0.1 for a, b in zip(first_weights, scratch_weights, strict=True)
    )
    for a, b in zip(before, tiny.weights(backbone), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_given_number_of_steps_is_trained(data):
    trial = FewLabelTrial(_backbone(), *_arrays(data), **OPTIONS)
    for _ in range(2):
        trial.run(0)
        assert int(trial.classifier.optimizer.iterations) == OPTIONS["steps"]


def test_fresh_weights_depend_on_the_seed_alone(data):
    trial = FewLabelTrial(_backbone(), *_arrays(data), **OPTIONS)
    starts = []
    for seed in (0, 0, 1):
        trial.run(seed, from_scratch=True)
        starts.append(tiny.weights(trial.classifier.backbone)[0])
    np.testing.assert_allclose(starts[0], starts[1], rtol=1e-6, atol=1e-7)
    assert np.abs(starts[0] - starts[2]).max() > 1e-3


def test_one_call_equals_the_run_of_a_trial(data):
    options = {**OPTIONS, "steps": 30}
    accuracy = few_label_accuracy(_backbone(), *_arrays(data), seed=1, **options)
    result = few_label_comparison(_backbone(), data, seeds=(1, 2), **options)
    assert set(result) == {"pretrained", "scratch"}
    assert all(len(accuracies) == 2 for accuracies in result.values())
    assert result["pretrained"][0] == accuracy > 0.8  # 20 test images of two easy classes


@pytest.mark.once
@pytest.mark.parametrize("num_labels", [10, 11, 12])
def test_subsets_are_balanced_and_follow_the_seed(num_labels):
    labels = np.repeat(np.arange(3), [50, 20, 10])
    chosen = class_balanced_subset(labels, num_labels, seed=0)
    assert len(set(chosen.tolist())) == num_labels
    counts = np.bincount(labels[chosen], minlength=3)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(chosen, class_balanced_subset(labels, num_labels, seed=0))
    assert set(chosen.tolist()) != set(class_balanced_subset(labels, num_labels, seed=1).tolist())


def test_wrong_inputs_are_refused(data):
    with pytest.raises(ValueError, match="lower batch_size"):
        FewLabelTrial(_backbone(), *_arrays(data), num_labels=4, batch_size=6)
    with pytest.raises(ValueError, match="Class 0 has 20 images"):
        FewLabelTrial(_backbone(), *_arrays(data), num_labels=50, batch_size=6)
    with pytest.raises(ValueError, match="at least the 3 classes"):
        class_balanced_subset(np.arange(3), 2, seed=0)
