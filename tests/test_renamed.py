"""Former names of public objects give those of today, and say so."""

import keras
import numpy as np
import pytest

import nepa_keras
from tests.helpers import tiny

FORMER = {
    "data.Survey": "data.SourceReport",
    "data.survey": "data.inspect_source",
    "evaluation.warnings_of": "evaluation.collapse_warnings",
    "evaluation.worth_rows": "evaluation.transfer_rows",
    "evaluation.worth_table": "evaluation.transfer_table",
    "layers.Doubling": "layers.Upsample2x",
    "training.OtherModelError": "training.CheckpointMismatchError",
}


@pytest.mark.once
@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_is_the_present_one(former):
    package, name = former.split(".")
    with pytest.warns(DeprecationWarning, match=FORMER[former]):
        found = getattr(getattr(nepa_keras, package), name)
    assert found is getattr(nepa_keras, package).__dict__[FORMER[former].split(".")[1]]
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        getattr(nepa_keras, package).Missing  # noqa: B018


def test_taps_are_activations():
    backbone = tiny.backbone()
    with pytest.warns(DeprecationWarning, match="activations"):
        former = backbone.taps(tiny.images(1))
    now = backbone.activations(tiny.images(1))
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(found["sequence_output"]) for found in (former, now))
    )


@pytest.mark.once
def test_a_transform_with_the_former_attribute_is_refused():
    with pytest.raises(TypeError, match="draws is now called num_random"):

        class Own(nepa_keras.data.ImageTransform):
            draws = 3
