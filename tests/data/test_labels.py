"""Labels that are no class numbers are refused by every reader, with their place; names become classes."""

import io
import json
import tarfile

import numpy as np
import pytest

from nepa_keras import data
from nepa_keras.data.labels import class_numbers, in_order
from tests.helpers.source_files import png

pytestmark = pytest.mark.once

# Labels -> class numbers and names.
GOOD = {
    "integers": (np.array([0, 2, 1], "uint8"), [0, 2, 1], None),
    "none": ([0, -1, 1], [0, -1, 1], None),
    "whole floats": (np.array([0.0, 1.0, 2.0], "float16"), [0, 1, 2], None),
    "booleans": (np.array([True, False]), [1, 0], None),
    "names": (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
    "numbers as names": (["10", "9", "0"], [2, 1, 0], ("0", "9", "10")),
    "unsigned": (np.array([0, 3], "uint64"), [0, 3], None),
    "nothing": ([], [], None),
}
# Labels -> words of the refusal; the wrong one is at index 1.
BAD = {
    "values to regress": ([0.0, 0.4, 1.0], "0.4 is not a whole number; regression targets"),
    "NaN": (np.array([0, np.nan]), "the label is NaN"),
    "infinite": ([0, float("inf")], "inf is not a whole number"),
    "too large": ([0, 2**40], f"{2**40} is larger than any class number"),
    "far too large": ([0, 2**80], f"{2**80} is larger than any class number"),
    "negative": ([0, -2], "-2 is negative; classes count from 0, and -1 is for none"),
    "null": ([0, None], "the label is null"),
    "lists": ([0, [1, 2]], "multi-label"),
    "true among numbers": ([0, True], "true is not a class number"),
    "a name among numbers": ([0, "cat"], "'cat' is a name, and others are not"),
    "an empty name": (["cat", " "], "the label is empty"),
    "a null among names": (["cat", None], "the label is null"),
    "a number among names": (["cat", 1], "1 is a number, and others are names"),
    "bytes": ([0, b"1"], "not a class number"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_labels_that_are_class_numbers_or_names(kind):
    labels, numbers, names = GOOD[kind]
    found, classes = class_numbers(labels)
    assert found.dtype == np.int32 and found.tolist() == numbers and classes == names


@pytest.mark.parametrize("kind", BAD)
def test_others_are_refused_with_their_place(kind):
    labels, words = BAD[kind]
    with pytest.raises(ValueError, match=words) as refusal:
        class_numbers(labels, "row {}".format)
    assert str(refusal.value).startswith("row 1: ")


def test_labels_have_to_be_those_of_the_images_and_of_the_names():
    with pytest.raises(ValueError, match="multi-label"):
        class_numbers(np.eye(3))
    with pytest.raises(ValueError, match=r"label 1: 3 is beyond the names of classes, .* 0 to 2"):
        data.ArraySource(np.zeros((2, 4, 4, 3), "uint8"), [0, 3], "abc")
    with pytest.raises(ValueError, match="'d' is none of the classes"):
        class_numbers(["a", "d"], class_names="abc")
    with pytest.raises(ValueError, match="There are 1 labels for 2 images"):
        data.ArraySource(np.zeros((2, 4, 4, 3), "uint8"), [0])
    with pytest.raises(ValueError, match="There are 3 labels for 2 images"):
        data.FileSource(["a.png", "b.png"], [0, 1, 1])


def test_classes_without_images_are_noted():
    images = np.zeros((3, 4, 4, 3), "uint8")
    assert data.ArraySource(images, [0, 1, 2]).notes == ()
    (note,) = data.ArraySource(images, [1, 2, 3]).notes
    assert note == (
        "1 of the 4 classes have no image: 0 (labels that count from 1 make a class too many)."
    )
    (note,) = data.ArraySource(images, [0, -1, 0], [f"kind {i}" for i in range(9)]).notes
    assert note == "8 of the 9 classes have no image: kind 1, kind 2, kind 3, kind 4, kind 5, …."


def test_names_that_are_all_numbers_are_in_the_order_of_numbers():
    assert in_order(map(str, range(12))) == tuple(map(str, range(12)))
    assert in_order(["01", "1", "0"]) == ("0", "01", "1")
    assert in_order(["a10", "a9", "2"]) == ("2", "a10", "a9")


# Writers of labelled images, each for a reader: (folder, labels) -> text for `open_source`.
def parquet(root, labels, column="label", kind=None, **metadata):
    import pyarrow
    from pyarrow.parquet import write_table

    table = _table(pyarrow, labels, column, kind)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    write_table(table, root / "train.parquet", row_group_size=2)
    return f"parquet:{root}"


def arrow(root, labels, column="label", kind=None):
    import pyarrow

    table = _table(pyarrow, labels, column, kind)
    with pyarrow.ipc.new_stream(str(root / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return f"arrow:{root}"


def _table(pyarrow, labels, column, kind):
    images = [{"bytes": png(i), "path": None} for i in range(len(labels))]
    return pyarrow.table({"image": images, column: pyarrow.array(labels, kind)})


def tars(root, labels, suffix="json"):
    with tarfile.open(root / "a.tar", "w") as tar:
        for i, label in enumerate(labels):
            text = json.dumps({"label": label}) if suffix == "json" else str(label)
            for name, content in ((f"{i}.png", png(i)), (f"{i}.{suffix}", text.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return f"webdataset:{root}"


def cls(root, labels):
    return tars(root, labels, "cls")


def records(root, labels):
    from nepa_keras.data.sources.records import example_class, masked_crc

    with open(root / "a.tfrecord", "wb") as file:
        for i, label in enumerate(labels):
            example = example_class()()
            values = example.features.feature
            values["image/encoded"].bytes_list.value.append(png(i))
            held = label if isinstance(label, list) else [label]
            if isinstance(held[0], str):
                values["label"].bytes_list.value.extend(name.encode() for name in held)
            elif isinstance(held[0], float):
                values["label"].float_list.value.extend(held)
            else:
                values["label"].int64_list.value.extend(held)
            content = example.SerializeToString()
            size = len(content).to_bytes(8, "little")
            for piece in (size, masked_crc(size), content, masked_crc(content)):
                file.write(piece)
    return f"tfrecord:{root}"


READERS = (parquet, arrow, tars, cls, records)


def opened(text):
    return data.open_source(text, with_labels=True)


@pytest.mark.parametrize("write", READERS)
def test_every_reader_takes_whole_numbers_and_names(write, tmp_path):
    source = opened(write(tmp_path, [0.0, 2.0, 1.0]))
    assert source.labels.tolist() == [0, 2, 1] and source.class_names is None
    source = opened(write(tmp_path, ["dog", "cat", "dog"]))
    assert source.labels.tolist() == [1, 0, 1] and source.class_names == ("cat", "dog")


@pytest.mark.parametrize("write", READERS)
@pytest.mark.parametrize("wrong", [[0.0, 0.5], [0, 2**40], [0, -3], [0.0, float("nan")]])
def test_every_reader_refuses_with_file_and_place(write, wrong, tmp_path):
    with pytest.raises(ValueError) as refusal:
        opened(write(tmp_path, wrong))
    place = {
        parquet: "row 1, column label",
        arrow: "row 1, column label",
        records: "record 1, label",
    }
    assert f"{place.get(write, '1.')}" in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("write", [parquet, arrow, tars])
def test_nulls_and_lists_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match="null"):
        opened(write(tmp_path, [0, None]))
    with pytest.raises(ValueError, match="multi-label"):
        opened(write(tmp_path, [[0, 1], [2]]))
    with pytest.raises(ValueError, match="multi-label"):
        opened(write(tmp_path, [[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="null"):
        opened(write(tmp_path, ["cat", None]))


@pytest.mark.parametrize("write", [parquet, arrow, tars, records])
def test_every_reader_takes_several_labels_an_image(write, tmp_path):
    several = {"with_labels": True, "multi_label": True}
    text = write(tmp_path, [["dog"], ["cat", "dog"]])
    source = data.open_source(text, **several)
    assert source.labels.tolist() == [[0, 1], [1, 1]] and source.class_names == ("cat", "dog")
    source = data.open_source(write(tmp_path, [[2, 0], [1]]), **several)
    assert source.labels.tolist() == [[1, 0, 1], [0, 1, 0]] and source.class_names is None
    copied = data.copy_to_records(source, tmp_path / "copy") and f"tfrecord:{tmp_path / 'copy'}"
    assert data.open_source(copied, **several).labels.tolist() == source.labels.tolist()
    rows = [[1, 0, 0], [1, 0, 1]]  # zeros and ones, no class numbers
    assert data.open_source(write(tmp_path, rows), **several).labels.tolist() == rows
    with pytest.raises(ValueError, match="may be class numbers or a row of zeros and ones"):
        data.open_source(write(tmp_path, [[0, 1], [1, 0]]), **several)


def test_texts_in_tars_hold_several_labels(tmp_path):
    several = {"with_labels": True, "multi_label": True}
    undivided = data.open_source(cls(tmp_path, ["dog; cat", "cat"]), **several)
    assert "--label_separator=';'" in " ".join(undivided.notes)
    source = data.open_source(
        cls(tmp_path, ["dog; cat", "cat", ""]), label_separator=";", **several
    )
    assert source.labels.tolist() == [[1, 1], [1, 0], [0, 0]]
    source = data.open_source(cls(tmp_path, ["3;1", "0"]), label_separator=";", **several)
    assert source.labels.tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        member = tarfile.TarInfo("lone.png")
        member.size = len(png(0))
        tar.addfile(member, io.BytesIO(png(0)))
    with pytest.raises(
        ValueError, match=r"lone\.png has no labels, \.cls or \.json; write an empty list"
    ):
        data.open_source(f"webdataset:{tmp_path}", **several)


def test_booleans_are_classes_in_a_column_of_their_type_alone(tmp_path):
    assert opened(parquet(tmp_path, [True, False])).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"1\.json: the label true is not a class number"):
        opened(tars(tmp_path, [0, True]))
    with pytest.raises(ValueError, match="multi-label"):
        opened(records(tmp_path, [0, [1, 2]]))


def test_columns_of_labels_by_other_names(tmp_path):
    source = opened(parquet(tmp_path, [3, 5], "fine_label"))
    assert source.labels.tolist() == [3, 5]
    assert any("are its column fine_label" in note for note in source.notes)
    kinds = {"features": {"breed": {"_type": "ClassLabel", "names": ["pug", "poodle"]}}}
    source = opened(parquet(tmp_path, [1, 0], "breed", info=kinds))
    assert source.labels.tolist() == [1, 0] and source.class_names == ("pug", "poodle")
    source = opened(parquet(tmp_path, ["a", "b"], "caption"))
    assert source.labels is None and "has no column of labels" in source.notes[0]
    with pytest.raises(ValueError, match=r"row 1, column breed: 2 is beyond the names"):
        opened(parquet(tmp_path, [1, 2], "breed", info=kinds))


def test_images_of_a_tar_without_a_label_are_told_apart(tmp_path):
    text = tars(tmp_path, [0, 1])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for name in ("8.png", "._0.png", "9.heic"):
            member = tarfile.TarInfo(name)
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    source = opened(text)
    assert source.labels.tolist() == [0, 1, -1]
    assert "1 .heic" in source.notes[0]
