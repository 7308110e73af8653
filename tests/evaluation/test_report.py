"""The final table."""

from types import SimpleNamespace

import numpy as np
import pytest

from nepa_keras.evaluation import FeatureExtractor, frozen_accuracies, transfer_rows, transfer_table
from tests.helpers import tiny


def _table(few_label, **changes):
    before, after = {"knn": 0.7, "linear_probe": 0.688}, {"knn": 0.69, "linear_probe": 0.74}
    arguments = dict(num_labels=200, steps=300, num_test_images=2000)
    return transfer_table(transfer_rows(few_label, before, after, **{**arguments, **changes}))


@pytest.mark.once
def test_gains_and_losses_are_both_shown():
    table = _table({"pretrained": [0.75, 0.77, 0.76], "scratch": [0.70, 0.72, 0.74]})
    _, head, _, fine_tuning, knn, probe = table.splitlines()
    assert "2,000 test images" in head and "EMA" in head
    assert "200 labels, 300 steps, 3 seeds" in fine_tuning
    assert fine_tuning.split("3 seeds")[1].split() == "72.0 ± 2.0 76.0 ± 1.0 +4.0 ± 1.7".split()
    assert knn.split()[-3:] == ["70.0", "69.0", "-1.0"]
    assert probe.split()[-3:] == ["68.8", "74.0", "+5.2"]
    assert len({len(line) for line in table.splitlines()[1:]}) == 1  # columns line up


@pytest.mark.once
def test_a_single_seed_has_no_deviation():
    table = _table({"pretrained": [0.75], "scratch": [0.7]})
    assert "±" not in table and "1 seed " in table


@pytest.mark.once
def test_unequal_runs_are_refused():
    with pytest.raises(ValueError, match="2 pretrained and 1 scratch"):
        _table({"pretrained": [0.75, 0.7], "scratch": [0.7]})


def test_frozen_accuracies_of_a_backbone_or_its_extractor():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype="uint8")
    labels = np.arange(60) % 2
    data = SimpleNamespace(
        train_images=images[:40],
        train_labels=labels[:40],
        test_images=images[40:],
        test_labels=labels[40:],
    )
    backbone = tiny.backbone()
    result = frozen_accuracies(backbone, data, k=100)
    assert set(result) == {"knn", "linear_probe"}
    assert all(0.0 <= accuracy <= 1.0 for accuracy in result.values())
    assert frozen_accuracies(FeatureExtractor(backbone), data, k=100) == result
