"""Each source reads the same images and labels out of real files of its format."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from nepa_keras.data import sources
from tests.helpers import source_files
from tests.helpers.source_files import CLASSES, COUNT, LABELS, WRITERS

pytestmark = pytest.mark.once


def identity(image: np.ndarray) -> int:
    """Index of one of the twelve images, read from its height."""
    return image.shape[0] - 30


@pytest.mark.parametrize("kind", WRITERS)
def test_images_and_labels(kind, tmp_path):
    data_dir = tmp_path if kind == "tfds" else None
    source = data.open_source(WRITERS[kind](tmp_path), data_dir=data_dir, with_labels=True)
    assert len(source) == COUNT
    found = [data.decode_image(source.read(i)) for i in range(COUNT)]
    assert sorted(map(identity, found)) == list(range(COUNT))
    for i, image in enumerate(found):
        number = identity(image)
        assert source.labels[i] == LABELS[number]
        expected = source_files.pixels(number)
        if kind == "imagenet":  # JPEG, so what Pillow reads
            expected = np.asarray(Image.open(source.name(i)))
        np.testing.assert_array_equal(image, expected)
    assert len({source.name(i) for i in range(COUNT)}) == COUNT
    if kind in ("folder", "imagenet", "tfds", "parquet", "arrow"):
        assert source.class_names == CLASSES


def test_validation_labels_of_the_devkit(tmp_path):
    source = data.open_source(source_files.imagenet(tmp_path), split="val")
    assert source.class_names == CLASSES
    np.testing.assert_array_equal(source.labels, LABELS)
    (tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    with pytest.raises(ValueError, match="12 labels for 11 validation images"):
        data.open_source(f"imagenet:{tmp_path / 'imagenet'}", split="val")
    next(tmp_path.rglob("meta.mat")).unlink()
    with pytest.raises(ValueError, match=r"meta.mat of the devkit .* unpack it there"):
        data.open_source(f"imagenet:{tmp_path / 'imagenet'}", split="val")


def test_an_unlabelled_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(source_files.png(0))
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b.JPG").write_bytes(source_files.png(1))
    source = data.open_source(f"folder:{tmp_path}")
    assert len(source) == 2 and source.labels is None
    assert source.name(0).endswith("a.png")


def test_images_in_memory():
    source = data.open_source("digits", split="test")
    assert len(source) == 360 and len(source.class_names) == 10
    assert source.read(0).shape == (8, 8, 1)


def wrong_texts(root):
    records = root / "cut.tfrecord"
    records.write_bytes(b"\x10" + b"\0" * 30)
    (root / "no.tar").write_bytes(b"no tar at all" * 100)
    (root / "empty").mkdir()
    broken, labelled = root / "broken.parquet", root / "labelled.tar"
    broken.write_bytes(b"PAR1" + bytes(100))
    with tarfile.open(labelled, "w") as tar:
        for name, content in (("part/a.png", source_files.png(0)), ("part/a.cls", b"1.7")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {
        "nothing": "no source of images 'nothing'",
        "folder:": "known are embedded",
        f"folder:{root / 'missing'}": "no folder .*missing",
        f"folder:{root / 'empty'}": "holds no file ending in .*jpg",
        f"imagenet:{root}": "imagenet:PATH needs train and val",
        f"tfrecord:{records}": "cut.tfrecord is truncated or not a TFRecord file: the record at byte 0",
        f"tfrecord:{root / 'empty'}": "holds no file like",
        f"tfrecord:{root / 'x-{00..03}'}": "x-00 is missing",
        f"webdataset:{root / 'no.tar'}": "not a complete, uncompressed tar",
        f"parquet:{root / 'none.parquet'}": "There is no file",
        f"arrow:{root / 'empty'}": "not written by save_to_disk",
        f"parquet:{broken}": "broken.parquet cannot be read",
        f"webdataset:{labelled}": "labelled.tar, part/a.cls: the label 1.7 is not a whole number",
        "tfds:unknown_thing": "not prepared below",
    }


def test_wrong_sources_are_refused(tmp_path):
    for text, words in wrong_texts(tmp_path).items():
        with pytest.raises(ValueError, match=words):
            data.open_source(text, with_labels=True)
    for kind in ("folder", "tfrecord", "webdataset"):
        with pytest.raises(ValueError, match="has no splits; name the place of the val images"):
            data.open_source(f"{kind}:{tmp_path}", split="val")
    with pytest.raises(ValueError, match="train and test, not 'val'"):
        data.open_source("digits", split="val")
    with pytest.raises(ValueError, match=r"no file like .*test"):
        data.open_source(source_files.parquet(tmp_path), split="test")
    # What names its files has nothing else to test with.
    saved = source_files.arrow(tmp_path)
    for text in (f"{saved}/train", f"parquet:{tmp_path}/parquet/data/train-*.parquet"):
        with pytest.raises(ValueError, match="has no splits; name the place of the test images"):
            data.open_source(text, split="test")
    with pytest.raises(ValueError, match=r"leave out data_dir="):
        data.open_source(f"folder:{tmp_path}", data_dir=tmp_path)


def test_records_without_images(tmp_path):
    source_files.write_records([tmp_path / "a.tfrecord"], "photo", "label")
    with pytest.raises(ValueError, match=r"none of the features image/encoded.*, but .*photo"):
        data.open_source(f"tfrecord:{tmp_path / 'a.tfrecord'}")


def test_row_groups_are_kept_for_a_window_only(tmp_path):
    source = data.open_source(source_files.parquet(tmp_path))
    source.most_rows = 4
    for i in (0, 11, 5, 0, 7):
        assert identity(data.decode_image(source.read(i))) == i
        assert sum(map(len, source.kept.values())) <= 4
    assert isinstance(source, sources.ParquetSource) and list(source.chunks) == list(
        range(0, 13, 2)
    )


def damaged_places(root):
    """Texts of sources whose parts others could have written to do harm -> words of the refusal."""
    for name in ("state", "info", "list", "away", "copy", "shards", "names", "deep"):
        (root / name).mkdir()
    deep = "[" * 200_000
    (root / "state" / "state.json").write_text("{}")
    (root / "list" / "state.json").write_text(deep)
    (root / "number").mkdir()
    (root / "number" / "state.json").write_text('{"_data_files": 3}')
    away = {"_data_files": [{"filename": "../../../dev/zero"}]}
    (root / "away" / "state.json").write_text(json.dumps(away))
    source_files.arrow(root / "info")
    saved = root / "info" / "saved" / "train"
    (saved / "dataset_info.json").write_text('{"features": []}')
    for name, manifest in (
        ("copy", '{"shards": null, "class_names": null}'),
        ("shards", '{"shards": [3], "class_names": null}'),
        ("names", None),
    ):
        source = data.open_source("digits", split="test")
        few = data.SubsetSource(source, range(3))
        (root / name).rmdir()
        data.copy_to_records(few, root / name, channels=1)
        file = root / name / "manifest.json"
        held = json.loads(file.read_text()) | {"class_names": {"a": 1}}
        file.write_text(json.dumps(held) if manifest is None else manifest)
    with tarfile.open(root / "deep" / "a.tar", "w") as tar:
        for name, content in (("a.png", source_files.png(0)), ("a.json", deep.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {
        f"arrow:{root / 'state'}": "state.json is damaged: it does not name the files",
        f"arrow:{root / 'number'}": "state.json is damaged: it does not name the files",
        f"arrow:{root / 'list'}": "state.json is damaged: it is not JSON",
        f"arrow:{root / 'away'}": "state.json is damaged: it does not name the files beside it",
        f"arrow:{saved.parent}": "dataset_info.json is damaged",
        f"tfrecord:{root / 'copy'}": "manifest.json is damaged",
        f"tfrecord:{root / 'shards'}": "manifest.json is damaged",
        f"tfrecord:{root / 'names'}": "manifest.json is damaged",
        f"webdataset:{root / 'deep'}": "a.tar, a.json is damaged: it is not JSON",
    }


def test_damaged_descriptions_are_refused_by_name(tmp_path):
    for text, words in damaged_places(tmp_path).items():
        with pytest.raises(ValueError, match=words):
            data.open_source(text, with_labels=True)


def test_damaged_pages_of_parquet_are_refused_by_name(tmp_path):
    text = source_files.parquet(tmp_path)
    file = sorted((tmp_path / "parquet" / "data").iterdir())[1]
    content = bytearray(file.read_bytes())
    content[4 : len(content) - 3000] = bytes(len(content) - 3004)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} cannot be read"):
        data.open_source(text, with_labels=True)
    source = data.open_source(text)
    with pytest.raises(data.ImageError, match="damaged row group"):
        source.read(7)
    assert file.name in source.name(7)


@pytest.mark.parametrize("path", ["/dev/zero", "../a.png", "b/../../a.png", "link", "a\0b"])
def test_a_cell_leads_nowhere_but_below_its_table(path, tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    (tmp_path / "a.png").write_bytes(source_files.png(0))
    place = tmp_path / "set"
    place.mkdir()
    (place / "inside.png").write_bytes(source_files.png(1))
    (place / "link").symlink_to("/dev/zero")
    cells = [{"bytes": None, "path": "inside.png"}, {"bytes": None, "path": path}]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(cells, kind)})
    write_table(table, place / "train.parquet")
    with pyarrow.ipc.new_stream(str(place / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    (place / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    for text in (f"parquet:{place}", f"arrow:{place}"):
        source = data.open_source(text)
        assert source.read(0) == source_files.png(1)
        with pytest.raises(data.ImageError, match=r"is not below .*set|No such file"):
            source.read(1)
