"""experiments/photographs.py with small packages in place of the registries' own."""

import io
from pathlib import Path

import numpy as np
import pytest
from photographs import credits, crops, packages
from photographs.credits import Credit
from photographs.sources import COPYRIGHT, METADATA, README
from PIL import Image

from nepa_keras.tables import read_table
from tests.helpers import small_packages
from tests.helpers.scripts import refusal, run_here

pytestmark = pytest.mark.once

STATED = """Copyright: Ada
License: CC-BY-SA-4.0
Source: https://commons.wikimedia.org/wiki/File:Alpaca_1.jpg
Files: alpaca.webp

Copyright: Bo
License: Public Domain
Files:
bee.webp
crab.webp

Copyright: Cy
License: CC-BY-NC 4.0
Files: dolphin.webp

Copyright: Di
License: CC-BY 2.0
Source: https://commons.wikimedia.org/wiki/File:Alpaca%5F1.jpg
Files: gorilla.webp

Copyright: Ed
License: CC0-1.0
Files: small.webp broken.webp
"""


def picture(seed: int, height: int = 60, width: int = 96) -> bytes:
    """A PNG file of blocks, red ones in its left half and green ones in its right half."""
    blocks = np.random.default_rng(seed).integers(0, 255, (height // 6, width // 6), "uint8")
    grey, half = np.kron(blocks, np.ones((6, 6), "uint8")), width // 2
    pixels, file = np.zeros((height, width, 3), "uint8"), io.BytesIO()
    pixels[:, :half, 0], pixels[:, half:, 1] = grey[:, :half], grey[:, half:]
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def half_as_large(content: bytes) -> bytes:
    image, file = Image.open(io.BytesIO(content)), io.BytesIO()
    smaller = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    smaller.save(file, "PNG")
    return file.getvalue()


def write_packages(folder: Path) -> None:
    """Two packages of the table: pictures in Qt's resource file, and pictures in a wheel."""
    folder.mkdir()
    files = {"README": STATED.encode(), "small.webp": picture(9, 18, 30), "broken.webp": b"RIFF"}
    names = ("alpaca", "bee", "crab", "dolphin", "gorilla", "nobody")
    files |= {f"{name}.webp": picture(seed) for seed, name in enumerate(names)}
    resources = small_packages.resources(("erase", "resource"), files)
    small_packages.debian(
        folder / "gcompris-qt-data_3%3a1.0-2_all.deb",
        {"usr/share/odd": b"x", "usr/share/rcc/erase.rcc": resources},
    )
    images = {"china": picture(20), "flower": half_as_large(picture(2))}
    held = {f"sklearn/datasets/images/{name}.jpg": content for name, content in images.items()}
    small_packages.wheel(folder / "scikit_learn-1.0-cp311-cp311-linux.whl", held)


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_photographs_of_packages_become_crops(tmp_path, monkeypatch):
    """Free ones, each once, held out as a whole; a missing registry is a sentence and the rest goes on."""
    write_packages(tmp_path / "downloads")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # without apt-get
    flags = (
        f"--downloads={tmp_path / 'downloads'}",
        "--packages=gcompris-qt-data,scikit-learn,palapeli-data,mate-backgrounds",
        *("--size=24", "--crops=50", "--validation_share=0.5", "--by_photograph"),
    )
    result = run_here("photographs.py", f"--output={tmp_path / 'set'}", *flags)
    assert result.returncode == 0, result.stderr
    for words in (
        "gcompris-qt-data 3:1.0-2 (Debian): 4 photographs used",  # alpaca, bee, crab, gorilla
        "1 under CC-BY-NC-4.0",
        "1 without a licence",
        "1 smaller than a crop",
        "1 that cannot be read",
        "not used: mate-backgrounds, under the GPL",
        "not available: palapeli-data of Debian needs apt-get, which is not installed",
        "scikit-learn-flower, a duplicate of gcompris-qt-data-crab",  # by its pixels
        "gcompris-qt-data-gorilla, a duplicate of gcompris-qt-data-alpaca",  # by its address
    ):
        assert words in result.stdout, result.stdout

    found = content(tmp_path / "set")
    table = read_table(tmp_path / "set" / "LICENCES.md")[1:]
    assert {row[0].rpartition("-")[2]: row[2:4] for row in table} == {
        "alpaca": ["CC-BY-SA-4.0", "Ada"],
        "bee": ["public domain", "Bo"],
        "crab": ["public domain", "Bo"],
        "china": ["CC-BY-2.0", "danielbuechele"],
    }
    for name, part, *_ in table:
        assert {path.split("/")[0] for path in found if f"/{name}_" in path} == {part}
    shown = [path for path in found if path.startswith(("train/", "validation/"))]
    assert len(shown) == len({found[path] for path in shown}) == 50
    assert {Image.open(io.BytesIO(found[path])).size for path in shown} == {(24, 24)}

    # Of held-out photographs, one half to learn from and the other, of another colour, to test with.
    held_out = {row[0] for row in table if row[1] == "validation"}
    for part, colour, number in (("train", 0, 20), ("test", 1, 10)):
        of_part = [path for path in found if path.startswith(f"regions/{part}/")]
        assert {path.split("/")[2] for path in of_part} == held_out
        assert len(of_part) == number * len(held_out)
        for path in of_part:
            means = np.asarray(Image.open(io.BytesIO(found[path]))).mean((0, 1))
            assert means[colour] > 50 and means[1 - colour] < 10

    again = run_here("photographs.py", f"--output={tmp_path / 'again'}", *flags)
    assert again.returncode == 0 and content(tmp_path / "again") == found


def test_what_cannot_be_meant_is_refused(tmp_path):
    output = f"--output={tmp_path / 'set'}"
    assert "exists; give a folder" in refusal("photographs.py", f"--output={tmp_path}")
    assert "known are gcompris-qt-data" in refusal("photographs.py", output, "--packages=coco")
    (tmp_path / "scikit_learn-1.0-any.whl").write_bytes(b"no archive")
    result = run_here(
        "photographs.py", output, "--packages=scikit-learn", f"--downloads={tmp_path}"
    )
    assert result.returncode == 1 and "gave 0 photographs" in result.stderr
    assert "scikit_learn-1.0-any.whl is no readable package" in result.stdout
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("kind", ["debian", "resources"])
def test_a_damaged_package_is_named(tmp_path, kind):
    """A download may have stopped at any length."""
    path = tmp_path / "a_1_all.deb"
    files = {"usr/a.png": b"a" * 100}
    whole = small_packages.resources(("a",), files)
    small_packages.debian(path, files if kind == "debian" else {"usr/a.rcc": whole})
    complete = path.read_bytes()
    assert dict(packages.members(path)).popitem()[1] == b"a" * 100
    if kind == "resources":
        broken = [({"usr/a.rcc": whole[:length]}) for length in (0, 3, 10, 40, len(whole) - 4)]
    else:
        broken = [complete[:length] for length in (0, 7, 30, 80, len(complete) - 60)]
    for part in broken:
        if kind == "resources":
            small_packages.debian(path, part)
        else:
            path.write_bytes(part)
        with pytest.raises(packages.UnavailableError, match=r"a_1_all\.deb is no readable package"):
            dict(packages.members(path))


DEBIAN_FILE = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020, Team
License: GPL-2+

Files: 16.04/a.jpg
       nature/b*.jpg
Copyright: 2018, Ada <ada@example.org>
           2019, Bo
License: CC-BY-SA-4.0
Comment: cut by Cy

License: CC-BY-SA-4.0
 Files: x.jpg
"""
KDE_FILE = b'{"KPlugin": {"Authors": [{"Name": "Ada"}], "License": "LGPLv3"}}'


def test_credits_are_read_as_packages_state_them():
    by_debian = credits.read(COPYRIGHT, {"usr/share/doc/p/copyright": DEBIAN_FILE})
    both = Credit("CC-BY-SA-4.0", "2018, Ada <ada@example.org>; 2019, Bo")
    assert by_debian("usr/share/backgrounds/a.jpg") == both
    assert by_debian("usr/share/p/nature/bee.jpg") == both
    assert by_debian("usr/share/p/x.jpg") == Credit("GPL-2+", "2020, Team")

    comment = "based on a photo by Bo, license CC-BY 3.0, source at https://example.org/a.jpg"
    text = f"Copyright: Ada\nLicense: CC-BY 4.0\na_0.webp\nb.webp\nComment: {comment}\n".encode()
    by_readme = credits.read(README, {"x/README": text})
    assert by_readme("x/b.webp") == Credit(
        "CC-BY-4.0", f"Ada; {comment}", "https://example.org/a.jpg"
    )
    assert by_readme("y/b.webp") is None

    by_kde = credits.read(METADATA, {"w/Kite/metadata.json": KDE_FILE})
    assert by_kde("w/Kite/contents/images/1x1.jpg") == Credit("LGPLv3", "Ada")
    assert by_kde("w/Path/contents/images/1x1.jpg") is None


def test_free_licences():
    free = "CC0 CC0-1.0 CC-BY-2.0 CC-BY-SA-3.0 MIT Expat BSD-3-clause-Google".split()
    gpl = "GPL-2+ GPL-3 LGPLv3 LGPL-2.1+".split()
    others = "CC-BY-NC-4.0 CC-BY-ND-2.0 CC-BY-NC-SA-3.0 GFDL-NIV-1.2 FDL GPL-2+-with-x MIT-or-none".split()
    for licence in [*free, "public domain"]:
        assert Credit(licence, "Ada").is_free()
    for licence in gpl:
        assert Credit(licence, "Ada").is_free(gpl=True) and not Credit(licence, "Ada").is_free()
    for licence in [*others, "", "public domain, perhaps"]:
        assert not Credit(licence, "Ada").is_free(gpl=True)


def test_a_crop_is_never_enlarged_and_shows_something():
    """A photograph of one colour but for a corner: what is cut has the corner in it, if only ten tries."""
    pixels = np.full((120, 160, 3), 200, "uint8")
    pixels[60:, 80:] = np.random.default_rng(0).integers(0, 255, (60, 80, 3), "uint8")
    random = crops.generator(1, "a")
    found = crops.cut(pixels, crops.Region(0, 0, 120, 160), 30, 40, random)
    assert all(crop.size == (30, 30) for crop in found)
    assert np.mean([np.asarray(crop).std() > 5 for crop in found]) > 0.9
    exact = crops.cut(pixels, crops.Region(60, 80, 30, 30), 30, 1, random)[0]
    np.testing.assert_array_equal(np.asarray(exact), pixels[60:90, 80:110])
