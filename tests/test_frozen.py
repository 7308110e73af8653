"""Compatibility with users' code and files: names, signatures, flags, and files of 553c603.

tests/helpers/frozen_files.py wrote the files in tests/frozen, tests/helpers/public_api.py the list of names.
"""

import csv
import shutil

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import nepa_keras
from nepa_keras.training import fit_steps
from tests.helpers import ROOT, frozen_files, public_api, scripts
from tests.helpers.tolerances import assert_close

FROZEN = ROOT / "tests" / "frozen"
KINDS = {
    "pretrainer": nepa_keras.NepaPretrainer,
    "classifier": nepa_keras.NepaImageClassifier,
    "segmenter": nepa_keras.NepaImageSegmenter,
}


@pytest.mark.once
def test_names_signatures_variables_and_flags():
    """A name that goes breaks somebody's code; a new one is written down with the command there."""
    written = (FROZEN / "public_api.txt").read_text().splitlines()
    found = public_api.describe()
    assert sorted(set(written) - set(found)) == [], "gone or changed"
    assert sorted(set(found) - set(written)) == [], "new"


def assert_gives_what_it_gave(model, name):
    expected = load_file(FROZEN / f"{name}.safetensors")
    found = frozen_files.outputs(model)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert_close(found[key], value, "same_numbers", key)


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_model_is_loaded(name):
    model = keras.saving.load_model(FROZEN / f"{name}.keras")
    assert type(model) is KINDS[name]
    assert_gives_what_it_gave(model, name)
    if name == "pretrainer":
        assert int(model.optimizer.iterations) == 2
        # It was saved with False, with which JAX compiles each operation of the step by itself.
        model.jit_compile = keras.backend.backend() == "jax"
        assert np.isfinite(model.fit(frozen_files.images(), verbose=0).history["loss"]).all()


@pytest.mark.parametrize("name", ["classifier", "segmenter"])
def test_a_preset_folder_is_loaded(name):
    model = KINDS[name].from_preset(FROZEN / f"{name}_preset")
    assert model.class_names == ("a", "b", "c")
    assert_gives_what_it_gave(model, name)


def test_a_stopped_run_goes_on(tmp_path):
    """The old checkpoint restores weights, optimizer and averages: losses equal the uninterrupted run's."""
    folder = shutil.copytree(FROZEN / "stopped", tmp_path / "run")
    fit_steps(frozen_files.run_model(), frozen_files.batches, 20, 4, folder)
    found, expected = (
        [float(row["loss"]) for row in csv.DictReader(path.open())]
        for path in (folder / "log.csv", FROZEN / "straight.csv")
    )
    assert len(found) == 20
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.once
def test_the_flags_of_a_run_are_read():
    """To the end: what is refused comes after them."""
    result = scripts.run_here("pretrain.py", f"--flagfile={FROZEN / 'flags.txt'}", "--data=cifar")
    assert "--data=cifar is no source of images" in result.stderr
