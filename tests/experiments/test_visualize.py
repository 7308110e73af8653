"""visualize.py as a person starts it."""

import re
from pathlib import Path

import pytest
from PIL import Image

from nepa_keras import data
from tests.helpers import tiny
from tests.helpers.scripts import refusal, run, run_here

pytestmark = pytest.mark.once
PICTURES = ("similarity", "attention", "error", "components", "nearest", "projection", "rollout")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.exported("nepa_micro_patch7_28", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve pictures of other sizes, and one that is none."""
    made = tmp_path_factory.mktemp("pictures")
    images = data.load("embedded").test_images[:12, ..., 0]
    for i, image in enumerate(images):
        Image.fromarray(image).resize((40 + i, 32)).save(made / f"{i:02}.png")
    (made / "broken.png").write_bytes(b"no picture")
    return made


def test_every_picture_of_the_embedded_images(model, tmp_path):
    output = tmp_path / "new" / "pictures"
    flags = [f"--model={model}", f"--output={output}", "--other_images=40"]
    auto = ["--blocks=auto", "--choosing_images=100"]
    result = run("visualize.py", *flags, *auto, "--num_images=2", "--patch=2,4", "--top_p=0.8")
    assert result.returncode == 0, result.stderr
    # A fifth of each class, to whole images.
    chosen = re.search(r", chosen by k-NN of (\d+) training images on (\d+) others", result.stdout)
    assert sum(map(int, chosen.groups())) == 100 and 15 < int(chosen[2]) < 25
    for name in PICTURES:
        with Image.open(output / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50, f"{name} has content"
        assert f"{name}.png" in result.stdout
    assert "over 8 patches after 8 known ones" in result.stdout
    rows = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines() if line[:2] == "  ")
    assert {name.strip() for name in rows} == {
        "rollout",
        "one step",
        "patch before",
        "last patch",
        "mean",
        "mean there",
    }
    assert all(-1 <= float(value) <= 1 for value in rows.values())
    assert rows["  rollout"] in (output / "report.html").read_text()


def test_a_folder_and_single_files(model, folder, tmp_path):
    flags = [f"--model={model}", f"--data=folder:{folder}", f"--output={tmp_path}"]
    result = run_here(
        "visualize.py", *flags, "--num_images=3", "--pictures=error,projection", "--seed=2"
    )
    assert result.returncode == 0, result.stderr
    assert "broken.png" in result.stdout
    made = ["error.png", "projection.png", "report.html"]
    assert sorted(file.name for file in tmp_path.iterdir()) == made
    files = f"--images={folder / '00.png'},{folder / '01.png'}"
    result = run_here("visualize.py", *flags[::2], files, "--pictures=attention")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "attention.png").is_file()


def test_wrong_flags_are_refused(model, folder, tmp_path):
    cases = {
        "no fog; known are": ["--pictures=fog"],
        "outside of this model's 4x4": ["--patch=5,1", "--pictures=error"],
        "--layer=block 9: embedding, output": ["--layer=block 9", "--other_images=5"],
        "this model has blocks 0 to 3": ["--blocks=4", "--pictures=error"],
        "--blocks=auto chooses by labels: --data=folder:": [
            f"--data=folder:{folder}",
            "--blocks=auto",
            "--pictures=error",
            "--num_images=2",
        ],
        "leaves 2 images to compare with": [f"--data=folder:{folder}", "--num_images=10"],
        "broken.png": [f"--images={folder / 'broken.png'}", "--pictures=error"],
    }
    for words, wrong in cases.items():
        said = refusal("visualize.py", f"--model={model}", f"--output={tmp_path}", *wrong)
        assert words in said, said
    assert not list(tmp_path.iterdir())
