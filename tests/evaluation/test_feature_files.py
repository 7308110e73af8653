"""Files of features, and the nearest of their rows."""

import sys

import numpy as np
import pytest

from nepa_keras.evaluation.feature_files import read_features, read_record, write_features
from nepa_keras.evaluation.nearest import nearest_features

pytestmark = pytest.mark.once

ROWS = np.random.default_rng(0).standard_normal((7, 2, 3, 4)).astype("float32")
NAMES = [f"cats/{i} é.jpg" for i in range(7)]
INDICES, LABELS = np.arange(7) * 2, np.array([0, 1, -1, 1, 0, 0, 1])
RECORD = {"shape": [2, 3, 4], "model": "small"}


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("labels", [LABELS, None])
def test_what_is_written_in_pieces_is_read(ending, labels, tmp_path):
    path = tmp_path / f"features.{ending}"
    write_features(path, NAMES, INDICES, labels, iter([ROWS[:4], ROWS[4:]]), RECORD)
    assert read_record(path) == RECORD
    found = read_features(path)
    assert found.names.tolist() == NAMES and found.record == RECORD
    np.testing.assert_array_equal(found.features, ROWS)
    np.testing.assert_array_equal(found.indices, INDICES)
    if labels is None:
        assert found.labels is None
    else:
        np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_damaged_and_other_files_are_refused(ending, tmp_path):
    path = tmp_path / f"features.{ending}"
    with pytest.raises(FileNotFoundError):
        read_features(path)
    write_features(path, NAMES, INDICES, LABELS, [ROWS], RECORD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"features\.\w+ is damaged or is not a file of features"):
        read_features(path)
    with pytest.raises(ValueError, match=r"as \.npz or \.parquet, not as features\.csv"):
        write_features("features.csv", NAMES, INDICES, LABELS, [ROWS], RECORD)


def test_parquet_without_pyarrow_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"A \.parquet file needs pyarrow.*pip install pyarrow"):
        read_features("features.parquet")


def test_the_nearest_rows_by_cosine():
    features = ROWS.reshape(7, -1)
    cosines = features @ features[2] / np.linalg.norm(features, axis=1)
    cosines /= np.linalg.norm(features[2])
    rows, found = nearest_features(1e3 * features, features[2], 3)
    assert rows.tolist() == np.argsort(-cosines)[:3].tolist() and rows[0] == 2
    np.testing.assert_allclose(found, cosines[rows], atol=1e-6)
    rows, _ = nearest_features(np.ones((5, 4)), np.ones(4), 9)
    assert rows.tolist() == [0, 1, 2, 3, 4], (
        "of equally near ones the first, and no more than there are"
    )
    with pytest.raises(ValueError, match="average features of patches first"):
        nearest_features(ROWS, ROWS[0])
    with pytest.raises(ValueError, match="Row 1 contains NaN"):
        nearest_features(np.array([[1.0, 0.0], [np.nan, 0.0]]), np.ones(2))
