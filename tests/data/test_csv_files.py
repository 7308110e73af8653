"""Labels as people have them: CSV files, chosen columns, nested folders, several labels an image."""

import json

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from nepa_keras.data.label_matrix import label_matrix
from tests.helpers.source_files import png

pytestmark = pytest.mark.once

# What a CSV file has for the pictures 0.png to 4.png -> class numbers and names.
LABELS = {
    "names": (["dog", "cat", "dog", "cat", "ant"], [2, 1, 2, 1, 0], ("ant", "cat", "dog")),
    "numbers": (["0", "2", "10", "1", "0"], [0, 2, 10, 1, 0], None),
    "numbers as pandas writes them": (["0.0", "2.0", "", "1.0", "0.0"], [0, 2, -1, 1, 0], None),
    "codes": (["01", "02", "01", "10", "02"], [0, 1, 0, 2, 1], ("01", "02", "10")),
    "some without": (["b", "", "a", "", "b"], [1, -1, 0, -1, 1], ("a", "b")),
}


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(png(i))
    return tmp_path


def opened(root, text, data_dir="pictures", **options):
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return data.open_source(
        f"csv:{root / 'labels.csv'}", data_dir=root / data_dir, with_labels=True, **options
    )


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_names_or_numbers(kind, pictures):
    cells, numbers, names = LABELS[kind]
    rows = "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells))
    source = opened(pictures, "path,label\n" + rows)
    assert source.labels.tolist() == numbers and source.class_names == names
    assert [source.read(i) for i in range(5)] == [png(i) for i in range(5)]


def test_paths_begin_at_the_file_or_a_root_and_may_lack_an_ending(pictures):
    """Delimiters, a byte order mark, quotes, Windows' separators, absolute paths, identifiers."""
    absolute = pictures / "pictures" / "2.png"
    text = (
        f'\ufeffImage;Note;Label\npictures\\0.png;"a;b\n\u2028";x\npictures/1;;y\n{absolute};;x\n'
    )
    source = opened(pictures, text, data_dir=".")
    assert [source.read(i) for i in range(3)] == [png(0), png(1), png(2)]
    assert source.labels.tolist() == [0, 1, 0] and source.notes == ()
    with pytest.raises(ValueError, match=r"None of the 2 .* --data_dir \(data_dir= in Python\)"):
        opened(pictures, text.replace(f"{absolute};;x\n", ""))


def test_what_is_repeated_or_missing_is_said(pictures):
    source = opened(pictures, "id,y\n0,a\n1,b\n0,a\n9.png,b\n")
    assert len(source) == 3 and source.labels.tolist() == [0, 1, 1]
    missing, repeated, column = source.notes
    assert "Of the 3 images" in missing and "1 cannot be found" in missing and "9.png" in missing
    assert "name an image again: 1; each image counts once" in repeated
    assert column.endswith("are its column y.")
    with pytest.raises(data.ImageError, match="No such file"):
        source.read(2)


WRONG = {
    "": "holds no row below its header",
    "path,label\n": "holds no row below its header",
    "0.png,1\n1.png,2\n": "in its first line; write a header above it",
    "x,y\n1,2\n": r"has the columns x, y; say which .* by --image_column",
    "path,label\n0.png,1,2\n": "line 2 has 3 cells where the header has 2; .* into quotes",
    "path,label\n0.png,0\n1.png,0.4\n": "line 3, column label: the label 0.4 is not a whole number",
    "path,label\n0.png,a\n0.png,b\n": "'a' in line 2 and 'b' in line 3; .* multi_label=True",
    "path,label\nhttps://a/0.png,1\n": "is an address; .* so download them",
    "path,label\n,1\n": "line 2 names no image",
    'path,label\n"0.png"x,1\n': "line 2 is damaged",
    "path,label\n0.png,\n": "line 2, column label and all others are empty",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_files_are_refused_by_line(text, pictures):
    with pytest.raises(ValueError, match=WRONG[text]) as refusal:
        opened(pictures, text)
    assert "labels.csv" in str(refusal.value) or "0.png" in str(refusal.value)


def test_options_are_for_the_sources_that_have_them(pictures):
    folder, table = f"folder:{pictures}", f"csv:{pictures / 'a.csv'}"
    for text, options, words in (
        (folder, {"image_column": "x"}, r"has no columns, so image_column=x \(--image_column\)"),
        (folder, {"multi_label": True}, r"one class an image; .* csv:FILE"),
        ("digits", {"multi_label": True}, "one class an image"),
        (table, {"label_separator": "|"}, "for several labels an image; add multi_label"),
        (table, {"nested_classes": True}, "nested_classes .* is for folder:PATH"),
        (table, {"split": "val"}, "csv has no splits"),
        (table, {}, "There is no file .*a.csv"),
    ):
        with pytest.raises(ValueError, match=words):
            data.open_source(text, **options)
    (pictures / "a.csv").write_bytes("path,label\n0.png,grün\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 text .*; save it as CSV UTF-8"):
        data.open_source(table)
    (pictures / "pictures" / "0.jpg").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"0 may be 0.jpg, 0.png; write the ending"):
        opened(pictures, "id,label\n0,1\n")
    with pytest.raises(
        ValueError, match=r"no column z \(label_column, --label_column\), but id, y"
    ):
        opened(pictures, "id,y\n0.png,1\n", label_column="z")


def test_kaggles_table_of_imagenet(pictures):
    """`LOC_val_solution.csv` by itself: the tree beside it, the first word as class, all classes numbered."""
    place = pictures / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    place.mkdir(parents=True)
    for i in range(3):
        (place / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(png(i))
    (pictures / "LOC_synset_mapping.txt").write_text("n01751748 sea snake\nn01440764 tench\n")
    (pictures / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000001,n01751748 111 108 230 366 \n"
        "ILSVRC2012_val_00000000,n01440764 85 1 499 272 n01440764 5 6 7 8 \n"
        "ILSVRC2012_val_00000002,n01440764 85 1 499 272 n01751748 5 6 7 8 \n"
    )
    text = f"csv:{pictures / 'LOC_val_solution.csv'}"
    source = data.open_source(text, with_labels=True)
    assert source.labels.tolist() == [1, 0, 0] and source.read(0) == png(1)
    assert source.class_names == ("n01440764", "n01751748")
    several = data.open_source(text, with_labels=True, multi_label=True)
    assert several.labels.tolist() == [[0, 1], [1, 0], [1, 1]]


def test_several_labels_an_image(pictures):
    """Separated in a cell, or a row each; an empty cell shows none of the classes."""
    cells = ["cat|dog", "dog", "", "ant| cat", "dog"]
    rows = "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells))
    source = opened(pictures, "path,tags\n" + rows, multi_label=True, label_separator="|")
    expected = [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert source.multi_label and source.class_names == ("ant", "cat", "dog")
    assert source.labels.dtype == np.uint8 and source.labels.tolist() == expected
    assert "none of the classes: 1" in source.notes[0]
    long = [f"{i}.png,{tag.strip()}\n" for i, cell in enumerate(cells) for tag in cell.split("|")]
    again = opened(pictures, "path,tags\n" + "".join(long), multi_label=True)
    assert again.labels.tolist() == expected and "again: 2" in again.notes[1]
    undivided = opened(pictures, "path,tags\n" + rows, multi_label=True)
    assert "such as 'cat|dog'" in undivided.notes[0] and "separator='|'" in undivided.notes[0]

    subset = data.SubsetSource(source, [3, 0])
    assert subset.labels.tolist() == [expected[3], expected[0]] and subset.multi_label
    other = data.with_classes(source, ("dog", "emu", "cat", "ant"), 4)
    assert other.labels.tolist() == [[d, 0, c, a] for a, c, d in expected]
    with pytest.raises(ValueError, match="1 classes that the model does not know: ant"):
        data.with_classes(source, ("cat", "dog"), 2)
    found = str(data.inspect_source(source))
    assert "1.20 labels per image on average" in found and "dog: 3" in found
    assert data.fingerprint(source) != data.fingerprint(undivided)
    data.copy_to_records(source, pictures / "copy")
    copied = f"tfrecord:{pictures / 'copy'}"
    copied = data.open_source(copied, with_labels=True, multi_label=True)
    assert copied.labels.tolist() == expected and copied.class_names == source.class_names


def table(kind, root, columns, features=None):
    """A parquet file or a folder of `save_to_disk` of some columns."""
    import pyarrow
    from pyarrow.parquet import write_table

    held = pyarrow.table(columns)
    if kind == "parquet":
        described = json.dumps({"info": {"features": features or {}}})
        write_table(held.replace_schema_metadata({"huggingface": described}), root / "t.parquet")
        return f"parquet:{root / 't.parquet'}"
    with pyarrow.ipc.new_stream(str(root / "data.arrow"), held.schema) as writer:
        writer.write_table(held)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (root / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return f"arrow:{root}"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_tables_are_chosen(kind, pictures):
    columns = {
        "thumbnail": [{"bytes": png(4), "path": None}] * 3,
        "photo": [{"bytes": png(i), "path": None} for i in range(3)],
        "where": [f"pictures/{i}.png" for i in (2, 1, 0)],
        "label": [0, 1, 0],
        "species": ["cat", "ant", "cat"],
        "tags": [[1, 0], [], [1]],
        "words": ["a b", "b", ""],
    }
    classes = {"_type": "ClassLabel", "names": ["day", "night"]}
    described = {"_type": "Sequence", "feature": classes}
    text = table(kind, pictures, columns, {"tags": described})
    source = data.open_source(text, with_labels=True)
    assert source.read(0) == png(4) and source.labels.tolist() == [0, 1, 0]
    options = {"image_column": "photo", "label_column": "species", "with_labels": True}
    source = data.open_source(text, **options)
    assert source.read(2) == png(2) and source.class_names == ("ant", "cat")
    assert source.labels.tolist() == [1, 0, 1] and source.notes == ()
    source = data.open_source(text, image_column="where")
    assert [source.read(i) for i in range(3)] == [png(2), png(1), png(0)]

    options |= {"label_column": "tags", "multi_label": True}
    source = data.open_source(text, **options)
    assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert source.class_names == ("day", "night")
    options |= {"label_column": "words", "label_separator": " "}
    assert data.open_source(text, **options).labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"several labels of one image .*--multi_label"):
        data.open_source(text, label_column="tags", with_labels=True)
    with pytest.raises(ValueError, match=r"no column photos \(image_column"):
        data.open_source(text, image_column="photos")
    with pytest.raises(ValueError, match=r"The column label of .* holds int64, no images"):
        data.open_source(text, image_column="label")


def test_each_folder_of_images_is_a_class_where_folders_are_nested(tmp_path):
    for i, place in enumerate(("wild/cats", "wild/dogs", "tame/cats", "tame/cats/old", "tame", "")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / f"{i}.png").write_bytes(png(i))
    options = {"with_labels": True, "nested_classes": True}
    source = data.open_source(f"folder:{tmp_path}", **options)
    assert source.class_names == ("tame", "tame/cats", "tame/cats/old", "wild/cats", "wild/dogs")
    by_name = {source.name(i)[-5:-4]: int(source.labels[i]) for i in range(6)}
    assert by_name == {"0": 3, "1": 4, "2": 1, "3": 2, "4": 0, "5": -1}
    assert "Images beside the folders in tame, tame/cats are of a class" in source.notes[-1]
    source = data.open_source(f"folder:{tmp_path}", with_labels=True)
    assert source.class_names == ("tame", "wild")


def test_a_matrix_of_labels():
    matrix, names = label_matrix([[2, 0], [], [0, 0]])
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]] and names is None
    images = np.zeros((3, 4, 4, 3), "uint8")
    source = data.ArraySource(images, matrix, ["a", "b", "c"])
    assert source.multi_label and source.notes == ("1 of the 3 classes have no image: b.",)
    for sets, words in (
        ([[0], None], "row 1: the cell is null; write an empty list"),
        ([[0], [1, 0.5]], "row 1: the label 0.5 is not a whole number"),
        ([["a"], ["b", " "]], "row 1: the label is empty"),
        ([[], []], "row 0 and all others have no label"),
    ):
        with pytest.raises(ValueError, match=words):
            label_matrix(sets, "row {}".format)
    with pytest.raises(ValueError, match="but these hold other values"):
        data.ArraySource(images, matrix * 2)
    with pytest.raises(ValueError, match="2 names of classes for labels of 3 classes"):
        data.ArraySource(images, matrix, "ab")


def test_each_class_is_on_either_side_of_what_is_held_out():
    draw = np.random.default_rng(0)
    labels = (draw.random((400, 12)) < np.linspace(0.005, 0.4, 12)).astype("uint8")
    labels[:, 11] = 0
    labels[7, 11] = 1  # the single image of a class stays in the training part
    train, validation = data.held_out(labels, 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(400))
    assert abs(len(validation) - 80) < 12 and 7 in train
    counts = labels.sum(axis=0)
    held = labels[validation].sum(axis=0)
    for count, here in zip(counts, held, strict=True):
        assert (0 < here < count) if count > 1 else here == 0
        assert abs(here - 0.2 * count) <= max(2, 0.1 * count)
    np.testing.assert_array_equal(data.held_out(labels, 0.2, seed=1)[1], validation)
    with pytest.raises(ValueError, match="3 images with a class of their own each none can be"):
        data.held_out(np.eye(3, dtype="uint8"), 0.2, seed=1)


def test_soft_targets_of_several_labels():
    """Smoothing is that of one-hot rows."""
    mix = data.MixupCutmix(4, label_smoothing=0.2)
    one_hot = np.eye(4, dtype="uint8")[[2, 0, 3]]
    np.testing.assert_allclose(mix.smooth(one_hot), mix.smooth([2, 0, 3]), atol=1e-7)
    np.testing.assert_allclose(mix.smooth(np.array([[1, 1, 0, 0]])), [[0.85, 0.85, 0.05, 0.05]])
    with pytest.raises(ValueError, match=r"shape \(3, 4\) are not of num_classes=5"):
        data.MixupCutmix(5).smooth(one_hot)


def test_pictures_are_decoded_from_a_csv(pictures):
    source = opened(pictures, "path,label\n3.png,1\n")
    expected = np.asarray(Image.open(pictures / "pictures" / "3.png"))
    np.testing.assert_array_equal(data.decode_image(source.read(0)), expected)
