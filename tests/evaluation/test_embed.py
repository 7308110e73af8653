"""`embed_source`: a row for each image, also over stops, and nothing of another model or other images."""

import keras
import numpy as np
import pytest

from nepa_keras import data, evaluation
from nepa_keras.training import OtherRunError
from tests.helpers import tiny
from tests.helpers.scripts import run_python
from tests.helpers.tolerances import assert_close

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1)).astype("uint8")
LABELS = np.arange(23) % 3
BAD = (0, 9)


class Stopped(Exception):
    pass


class Source(data.ArraySource):
    """Has bad images, and ends the work at one."""

    stops_at = None

    def read(self, index):
        if index == self.stops_at:
            raise Stopped
        if index in BAD:
            raise data.ImageError("burnt")
        return super().read(index)


def embed(extractor, output, pixels=PIXELS, stops_at=None, batch_size=4) -> dict:
    source = Source(pixels, LABELS[: len(pixels)], ("a", "b", "c"))
    source.stops_at = stops_at
    batches = data.OrderedBatches(
        source, batch_size, 8, bad_images=data.BadImages(len(source), 0.2), threads=1
    )
    return evaluation.embed_source(extractor, batches, output, {"of": "a test"}, seconds=0.0)


def test_what_is_stopped_goes_on_and_other_features_are_refused(tmp_path):
    backbone = tiny.pretrainer().backbone
    extractor = evaluation.FeatureExtractor(backbone, causal=False, block=0)
    output = tmp_path / "new" / "features.npz"
    with pytest.raises(Stopped):  # before a row is there, which any other features may follow
        embed(evaluation.FeatureExtractor(backbone, causal=True), output, stops_at=1)
    for stops_at in (7, 14, 22):
        with pytest.raises(Stopped):
            embed(extractor, output, stops_at=stops_at)
        assert not output.exists()
    with pytest.raises(
        OtherRunError, match=r"was begun with images 23 images.*now it is 20 images"
    ):
        embed(extractor, output, PIXELS[:20])
    record = embed(extractor, output, batch_size=5)
    assert [path.name for path in output.parent.iterdir()] == ["features.npz"]
    assert record["bad_images"] == ["image 0: burnt", "image 9: burnt"] and record["rows"] == 21
    assert record["origin"] == {"of": "a test"} and record["class_names"] == ["a", "b", "c"]
    found = evaluation.read_features(output)
    kept = np.setdiff1d(np.arange(23), BAD)
    np.testing.assert_array_equal(found.indices, kept)
    np.testing.assert_array_equal(found.labels, LABELS[kept])
    assert found.names.tolist() == [f"image {i}" for i in kept]
    assert_close(found.features, extractor.extract(PIXELS[kept]), "same_numbers")
    assert embed(extractor, output) == record, "it is finished"
    other = evaluation.FeatureExtractor(backbone, causal=True, block=0)
    with pytest.raises(
        OtherRunError, match=r"bidirectional, and now it is causal.*features\.npz\.$"
    ):
        embed(other, output)
    backbone.norm.weights[0].assign(2 * backbone.norm.weights[0])
    with pytest.raises(OtherRunError, match=r"was begun with the model [\d,]+ weights \("):
        embed(extractor, output)


def test_a_map_is_the_patches_on_their_grid():
    backbone = tiny.pretrainer(image_shape=(8, 12, 1)).backbone
    images = tiny.images(3, (8, 12, 1))
    maps = evaluation.extract_features(backbone, images, pool="map")
    patches = evaluation.extract_features(backbone, images, pool="patches")
    np.testing.assert_array_equal(maps, patches.reshape(3, 2, 3, 16))
    expected = keras.ops.convert_to_numpy(backbone(images)["sequence_output"])[:, 1:]
    assert_close(patches, expected, "same_numbers")


LIFE = """
import os, signal, sys
from nepa_keras import evaluation
from nepa_keras.evaluation import embed
from tests.evaluation import test_embed as test
from tests.helpers import tiny

output, dies_at = sys.argv[1], int(sys.argv[2])
if dies_at == -2:  # as the pieces are joined
    write = embed.write_features
    def die(*arguments):
        write(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    embed.write_features = die
real = test.Source.read
def read(source, index):
    if index == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, index)
test.Source.read = read
extractor = evaluation.FeatureExtractor(tiny.pretrainer().backbone, "map", False)
test.embed(extractor, output)
"""


@pytest.mark.full
@pytest.mark.once
@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_after_kills_the_file_is_that_of_a_run_without_a_break(ending, tmp_path):
    straight, killed = tmp_path / f"straight.{ending}", tmp_path / f"killed.{ending}"
    assert run_python("-c", LIFE, straight, -1).returncode == 0
    for dies_at in (2, 13, 22, -2):
        assert run_python("-c", LIFE, killed, dies_at).returncode == -9
        assert not killed.exists()
    assert run_python("-c", LIFE, killed, -1).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [killed.name, straight.name]
    found, expected = evaluation.read_features(killed), evaluation.read_features(straight)
    assert found.record == expected.record and found.record["rows"] == 21
    for each, other in zip(found[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(each, other)
