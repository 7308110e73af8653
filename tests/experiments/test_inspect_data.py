"""experiments/inspect_data.py as a person starts it."""

import pytest
from PIL import Image

from tests.helpers import source_files
from tests.helpers.scripts import run, run_here

pytestmark = pytest.mark.once


def test_report_sheet_and_copy(tmp_path):
    text = source_files.folder(tmp_path)
    result = run("inspect_data.py", f"--data={text}", f"--sheet={tmp_path / 'sheet.png'}")
    assert result.returncode == 0, result.stderr
    assert "12 images, 12 looked at, 0 bad" in result.stdout
    assert min(Image.open(tmp_path / "sheet.png").size) > 200
    seen = tmp_path / "seen.png"
    result = run("inspect_data.py", f"--data={text}", f"--sheet={seen}", "--transform=finetune")
    assert result.returncode == 0, result.stderr
    assert seen.read_bytes() != (tmp_path / "sheet.png").read_bytes()
    copy = tmp_path / "copy"
    result = run("inspect_data.py", f"--data={text}", f"--convert={copy}", "--images_per_shard=5")
    assert result.returncode == 0 and "12 images in 3 files" in result.stdout, result.stderr
    result = run("inspect_data.py", f"--data=tfrecord:{copy}")
    assert "12 images, 12 looked at, 0 bad" in result.stdout


def test_bad_images_give_an_exit_code_and_wrong_flags_are_refused(tmp_path):
    text = source_files.folder(tmp_path)
    (tmp_path / "images" / source_files.CLASSES[0] / "00.png").write_bytes(b"no image")
    result = run("inspect_data.py", f"--data={text}")
    assert result.returncode == 3 and "00.png: no image of a known format" in result.stdout
    cases = {
        "There is no folder /missing": ["--data=folder:/missing"],
        "on the sheet that --sheet=FILE draws": [f"--data={text}", "--transform=evaluate"],
        "copy that --convert=FOLDER writes": [f"--data={text}", "--shorter_side=20"],
        "exists and is left as it is": [f"--data={text}", f"--convert={tmp_path}"],
    }
    for words, flags in cases.items():
        result = run_here("inspect_data.py", *flags)
        assert result.returncode == 1 and words in result.stderr + result.stdout, result.stderr
