"""embed.py and search.py as a person starts them."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nepa_keras.evaluation import read_features
from tests.helpers import tiny
from tests.helpers.scripts import refusal, run_here

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[Path, Path]:
    """A model, and a folder of pictures in two classes, one of them broken."""
    model = tiny.exported("nepa_micro_patch2_8", tmp_path_factory.mktemp("model"))
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        path = folder / ("dark" if i % 2 else "light") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        low = 0 if i % 2 else 128
        pixels = np.random.default_rng(i).integers(low, low + 127, (9, 8, 3)).astype("uint8")
        Image.fromarray(pixels).save(path)
    (folder / "dark" / "broken.png").write_bytes(b"no picture")
    return model, folder


def test_a_folder_is_embedded_and_searched(given, tmp_path):
    model, folder = given
    output = tmp_path / "new" / "features.parquet"
    flags = [f"--model={model}", f"--data=folder:{folder}", f"--output={output}"]
    result = run_here("embed.py", *flags, "--blocks=auto", "--attention=bidirectional")
    assert result.returncode == 0, result.stderr
    assert f"left out: {folder / 'dark' / 'broken.png'}: no image of a known" in result.stdout
    assert f"written: {output}, 12 rows of 64" in result.stdout
    assert "search.py" in result.stdout.splitlines()[-1]
    found = read_features(output)
    assert found.record["class_names"] == ["dark", "light"]
    assert [Path(name).parent.name for name in found.names] == 6 * ["dark"] + 6 * ["light"]
    np.testing.assert_array_equal(found.labels, 6 * [0] + 6 * [1])

    again = run_here("embed.py", *flags, "--blocks=auto", "--attention=bidirectional")
    assert again.returncode == 0 and f"was there already: {output}" in again.stdout
    assert "was begun with the pool mean, and now it is last" in refusal(
        "embed.py", *flags, "--blocks=auto", "--attention=bidirectional", "--pool=last"
    )
    cases = {
        "written as .npz or .parquet, not as x.csv": "--output=x.csv",
        "this model has blocks 0 to 2": "--blocks=3",
        "is a path; write --data=folder:": f"--data={folder}",
    }
    for words, wrong in cases.items():
        assert words in refusal("embed.py", *flags, wrong)

    sheet = tmp_path / "sheet.png"
    search = ["search.py", f"--features={output}", "--count=3"]
    result = run_here(*search, "--query=light/4.png", f"--output={sheet}")
    assert result.returncode == 0, result.stderr
    title, _, *lines, drawn = result.stdout.splitlines()
    assert title.startswith(f"nearest to {folder}/light/4.png, by mean of ") and sheet.exists()
    assert len(lines) == 3 and not any("light/4.png" in line for line in lines)
    assert drawn == f"drawn: {sheet}"
    copy = tmp_path / "other.png"
    copy.write_bytes((folder / "dark" / "7.png").read_bytes())
    result = run_here(*search, f"--query={copy}")
    assert result.returncode == 0, result.stderr
    assert any("1.0000" in line and "dark/7.png" in line for line in result.stdout.splitlines())

    other = tiny.exported("nepa_micro_patch2_8", tmp_path / "other")
    cases = {
        "was written with another model than --model": [f"--query={copy}", f"--model={other}"],
        "--query=cow.png is no picture file, and no image of": ["--query=cow.png"],
        "broken.png is not a readable image": [f"--query={folder}/dark/broken.png"],
        "no longer holds": ["--query=light/4.png", f"--output={sheet}", "--data=digits"],
    }
    for words, wrong in cases.items():
        assert words in refusal(*search, *wrong)


def test_a_record_of_a_shard_is_found_by_its_end(given, tmp_path):
    """The name of a record is "SHARD, KEY.png"."""
    model, folder = given
    shard, output = tmp_path / "shard.tar", tmp_path / "features.npz"
    with tarfile.open(shard, "w") as tar:
        for path in sorted((folder / "light").iterdir()):
            tar.add(path, arcname=path.name)
    flags = [f"--model={model}", f"--data=webdataset:{shard}", f"--output={output}"]
    result = run_here("embed.py", *flags)
    assert result.returncode == 0, result.stderr
    result = run_here("search.py", f"--features={output}", "--query=4.png", "--count=1")
    assert result.stdout.startswith(f"nearest to {shard}, 4.png, by mean of "), result.stderr
