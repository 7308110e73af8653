"""experiments/inspect_data.py as a person starts it."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers import source_files
from tests.helpers.file_server import serving
from tests.helpers.pairs import write
from tests.helpers.scripts import refusal, run, run_here

pytestmark = pytest.mark.once


def test_report_sheet_and_copy(tmp_path):
    text = source_files.folder(tmp_path)
    result = run("inspect_data.py", f"--data={text}", f"--sheet={tmp_path / 'sheet.png'}")
    assert result.returncode == 0, result.stderr
    assert "12 images, 12 looked at, 0 bad" in result.stdout
    assert min(Image.open(tmp_path / "sheet.png").size) > 200
    seen = tmp_path / "seen.png"
    result = run_here(
        "inspect_data.py", f"--data={text}", f"--sheet={seen}", "--transform=finetune"
    )
    assert result.returncode == 0, result.stderr
    assert seen.read_bytes() != (tmp_path / "sheet.png").read_bytes()
    copy = tmp_path / "copy"
    result = run_here(
        "inspect_data.py", f"--data={text}", f"--convert={copy}", "--images_per_shard=5"
    )
    assert result.returncode == 0 and "12 images in 3 files" in result.stdout, result.stderr
    result = run_here("inspect_data.py", f"--data=tfrecord:{copy}")
    assert "12 images, 12 looked at, 0 bad" in result.stdout


def test_bad_images_give_an_exit_code_and_wrong_flags_are_refused(tmp_path):
    text = source_files.folder(tmp_path)
    (tmp_path / "images" / source_files.CLASSES[0] / "00.png").write_bytes(b"no image")
    result = run_here("inspect_data.py", f"--data={text}")
    assert result.returncode == 3 and "00.png: no image of a known format" in result.stdout
    cases = {
        "There is no folder /missing": ["--data=folder:/missing"],
        "--transform applies to the contact sheet": [
            f"--data={text}",
            "--transform=evaluate",
        ],
        "--shorter_side applies to the copy": [
            f"--data={text}",
            "--shorter_side=20",
        ],
        "exists and is left unchanged": [f"--data={text}", f"--convert={tmp_path}"],
    }
    for words, flags in cases.items():
        result = run_here("inspect_data.py", *flags)
        assert result.returncode == 1 and words in result.stderr + result.stdout, result.stderr


def test_what_is_left_out_of_a_folder_is_said(tmp_path):
    text = source_files.folder(tmp_path)
    (tmp_path / "images" / "bird").mkdir()
    (tmp_path / "images" / "sheet.png").write_bytes(source_files.png(0))
    (tmp_path / "images" / "a.heic").write_bytes(b"x")
    result = run_here("inspect_data.py", f"--data={text}")
    assert result.returncode == 0 and "3 classes of 4 to 4 images" in result.stdout
    for words in ("1 images without a label", "sheet.png", "not classes: bird", "1 .heic"):
        assert words in result.stdout
    result = run_here("finetune.py", f"--data={text}")  # and then that there is no --model
    for words in ("1 images of", "sheet.png", "not classes: bird", "1 .heic"):
        assert words in result.stdout


def test_data_over_the_network(tmp_path):
    source_files.webdataset(tmp_path)
    with serving(tmp_path) as server:
        flags = [f"--data=webdataset:{server.address}/tars/train-{{000..001}}.tar"]
        flags += [f"--cache_dir={tmp_path / 'cache'}", "--cache_size=0.5"]
        result = run_here("inspect_data.py", *flags)
        assert "12 images, 12 looked at, 0 bad" in result.stdout, result.stderr
        assert list((tmp_path / "cache").glob("*/*/index-*"))
        said = refusal("inspect_data.py", *flags[:2], "--cache_size=0.01")
        assert "limited to 0.01 GB; it needs at least 0.1 GB" in said


def test_a_data_set_without_labels_is_refused_with_the_reason(tmp_path):
    one = tmp_path / "cat"
    one.mkdir()
    (one / "a.png").write_bytes(source_files.png(0))
    assert "has one folder of images, cat" in refusal("finetune.py", f"--data=folder:{tmp_path}")
    one.rename(tmp_path / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_bytes(source_files.png(0))
    said = refusal("finetune.py", f"--data=folder:{tmp_path}")
    assert "are splits, not classes" in said and f"folder:{tmp_path}/train" in said


def test_what_masks_hold_is_said_before_the_work(tmp_path):
    """Both inspect_data.py and segment.py, before it asks for a model, report it."""
    mask = np.array([[0, 0], [0, 255]], np.uint8)
    for i in range(4):
        write(tmp_path / "images" / f"{i}.png", np.zeros((2, 2, 3), np.uint8))
        write(tmp_path / "masks" / f"{i}.png", mask)
    (tmp_path / "classes.txt").write_text("background\nlesion\n")
    flags = [f"--data=pairs:{tmp_path}", "--crop_size=2"]
    results = [
        run_here("inspect_data.py", flags[0]),
        run_here("segment.py", *flags, "--validation_share=0.5"),
        run_here("segment.py", *flags, "--mode=evaluate"),
    ]
    assert "4 images, 4 looked at, 0 bad" in results[0].stdout
    for result in results:
        for words in ("in no mask of", "lesion", "25 % of the pixels", "such as 1 for lesion"):
            assert words in result.stdout, result.stdout + result.stderr
