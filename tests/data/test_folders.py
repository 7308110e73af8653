"""Folders as people have them: splits, wrappers, thumbnails, links, strays, and what cannot be read."""

import os

import pytest
from PIL import Image

from nepa_keras import data

pytestmark = pytest.mark.once


def pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name, "PNG")
    return root


def opened(root):
    return data.open_source(f"folder:{root}", with_labels=True)


def notes(root):
    return " ".join(opened(root).notes)


def test_classes_with_nothing_else_need_no_notes(tmp_path):
    assert opened(pictures(tmp_path, "cat/a.png", "dog/b.png")).notes == ()


def test_numbers_as_classes_are_in_the_order_of_numbers(tmp_path):
    source = opened(pictures(tmp_path, *(f"{i}/a.png" for i in range(12))))
    assert source.class_names == tuple(map(str, range(12)))
    assert [os.path.basename(os.path.dirname(source.name(i))) for i in range(12)] == [
        source.class_names[label] for label in source.labels
    ]
    source = opened(pictures(tmp_path / "more", "a10/a.png", "a9/a.png"))
    assert source.class_names == ("a10", "a9")  # as ever


def test_splits_are_no_classes(tmp_path):
    source = opened(pictures(tmp_path, "Train/cat/a.png", "Train/dog/a.png", "val/cat/a.png"))
    assert source.labels is None and source.class_names is None and len(source) == 3
    assert f"Train, val of {tmp_path} are splits" in source.notes[0]
    assert f"folder:{tmp_path / 'Train'}" in source.notes[0]
    assert data.open_source(f"folder:{tmp_path}").notes == source.notes  # pretraining, too
    source = opened(pictures(tmp_path / "vehicles", "train/a.png", "bus/a.png"))
    assert source.class_names == ("bus", "train")


def test_one_folder_is_no_classes(tmp_path):
    assert "has one folder of images, cat; classes are two" in notes(
        pictures(tmp_path, "cat/a.png")
    )
    pictures(tmp_path, "cat/siam/a.png", "cat/manx/a.png")
    said = notes(tmp_path)
    assert "the folders in it, manx, siam" in said and f"folder:{tmp_path / 'cat'}." in said
    assert opened(tmp_path).labels is None
    assert data.open_source(f"folder:{tmp_path}").notes == ()
    assert "no folders of classes" in notes(tmp_path / "cat" / "siam")


def test_folders_of_tools_are_left_out_with_their_number(tmp_path):
    pictures(tmp_path, "cat/a.png", "dog/b.png", "cat/@eaDir/a.png/THUMB.png", "cat/@eaDir/b.png")
    pictures(tmp_path, "dog/.ipynb_checkpoints/b.png", "__MACOSX/dog/b.png", "Thumbs/a.png")
    (tmp_path / "lost+found").mkdir()
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog") and len(source) == 2
    (note,) = source.notes
    for words in ("2 in @eaDir", "1 in .ipynb_checkpoints", "1 in __MACOSX", "1 in Thumbs"):
        assert words in note


def test_a_stray_picture_and_an_empty_class(tmp_path):
    pictures(tmp_path, "cat/a.png", "dog/b.png", "sheet.png")
    (tmp_path / "bird").mkdir()
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1, -1]
    said = " ".join(source.notes)
    assert f"without a label: {tmp_path / 'sheet.png'}" in said and "are not classes: bird" in said


def test_endings_are_read_or_counted(tmp_path):
    for name in ("a.jpg", "b.jfif", "c.jpe", "d.JPEG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "JPEG")
    Image.new("RGB", (8, 8)).save(tmp_path / "e.ppm")
    for name in ("f.heic", "g.HEIC", "h.txt", "noending"):
        (tmp_path / name).write_bytes(b"x")
    source = opened(tmp_path)
    assert [os.path.basename(source.name(i)) for i in range(len(source))] == [
        *("a.jpg", "b.jfif", "c.jpe", "d.JPEG", "e.ppm")
    ]
    for i in range(len(source)):
        assert data.decode_image(source.read(i)).shape == (8, 8, 3)
    assert "2 .heic, 1 .txt, 1 without one; such as f.heic, h.txt, noending." in source.notes[0]
    assert "pip install pillow-heif brings what reads .heic." in source.notes[0]
    for name in os.listdir(tmp_path):
        if not name.endswith(".heic"):
            os.unlink(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds no file ending in .*Passed over .* 1 .heic"):
        opened(tmp_path)


def test_a_link_never_takes_the_place_of_a_folder(tmp_path):
    pictures(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "ant").symlink_to(tmp_path / "cat")
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "more").symlink_to(tmp_path / "dog")
    (tmp_path / "dog" / "up").symlink_to(tmp_path)
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1]
    said = " ".join(source.notes)
    assert f"{tmp_path / 'ant'}" in said and "bee" in said and "count once" in said


def test_a_linked_class_is_a_class(tmp_path):
    pictures(tmp_path, "set/dog/b.png", "elsewhere/a.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    source = opened(tmp_path / "set")
    assert source.class_names == ("cat", "dog") and source.notes == ()


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
    pictures(tmp_path, "bird/a.png", "cat/a.png", "dog/b.png")
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"folder .*cat cannot be read \(Permission denied\)"):
        opened(tmp_path)
    monkeypatch.undo()
    (tmp_path / "eel").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"eel is a broken link"):
        opened(tmp_path)


KAGGLE = "ILSVRC/Data/CLS-LOC"


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's tree of two classes, whose rows are in no order."""
    for name in ("n02000001", "n01000001"):
        pictures(tmp_path, f"{KAGGLE}/train/{name}/{name}_1.JPEG")
    pictures(tmp_path, *(f"{KAGGLE}/val/ILSVRC2012_val_{i:08}.JPEG" for i in (1, 2, 3)))
    rows = ["3,n01000001 1 2 3 4", "1,n02000001 5 6 7 8 n02000001 1 2 3 4", "2,n01000001 1 1 2 2"]
    lines = [f"ILSVRC2012_val_0000000{row}" for row in rows]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    mapping = "n02000001 a thing, another\nn01000001 word\n"
    (tmp_path / "LOC_synset_mapping.txt").write_text(mapping)
    return tmp_path


@pytest.mark.parametrize("place", ["", "ILSVRC", KAGGLE])
def test_imagenet_as_kaggle_has_it(kaggle, place):
    text = f"imagenet:{kaggle / place}"
    source = data.open_source(text, "val", with_labels=True)
    assert source.class_names == ("n01000001", "n02000001") and source.labels.tolist() == [1, 0, 0]
    source = data.open_source(text, "train", with_labels=True)
    assert source.class_names == ("n01000001", "n02000001") and source.labels.tolist() == [0, 1]


def test_imagenet_with_too_few_labels_is_refused(kaggle):
    pictures(kaggle, f"{KAGGLE}/val/ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(ValueError, match=r"solution.csv has no class for ILSVRC2012_val_00000009"):
        data.open_source(f"imagenet:{kaggle}", "val")
    (kaggle / "LOC_val_solution.csv").unlink()
    with pytest.raises(ValueError, match=r"or Kaggle's LOC_val_solution.csv"):
        data.open_source(f"imagenet:{kaggle}", "val")
