"""Packages that hold photographs under free licences: one row each, with where it says who and how."""

from typing import NamedTuple

DEBIAN, PYPI = "Debian", "PyPI"
# Where a package says who made a file and under which licence (`credits.read`): in Debian's own file, or in
# files of that name beside the pictures.
COPYRIGHT, README, METADATA = "copyright", "README", "metadata.json"


class Source(NamedTuple):
    """A package with photographs.

    Attributes:
        registry: `DEBIAN` or `PYPI`.
        package: its name there.
        files: patterns of the paths of photographs in it; `*` also stands for folders.
        stated: where it names licence and author: `COPYRIGHT`, `README`, `METADATA`, or where it does so in
            prose only, those words in the format of Debian's file.
        without: patterns of what is no photograph among the files.
        gpl: whether all of them are under the GPL or LGPL.
    """

    registry: str
    package: str
    files: tuple[str, ...]
    stated: str
    without: tuple[str, ...] = ()
    gpl: bool = False


# Licences that the authors gave are in the docstrings of skimage.data. Pictures without a licence, such as
# "no known copyright restrictions" (coins, ihc) or no word at all (moon, motorcycle), are not in the list.
_SCIKIT_IMAGE = """
Files: skimage/data/astronaut.png
Copyright: NASA
License: public domain

Files: skimage/data/brick.png skimage/data/grass.png skimage/data/gravel.png
Copyright: CC0Textures
License: CC0-1.0

Files: skimage/data/camera.png
Copyright: Lav Varshney
License: CC0-1.0

Files: skimage/data/chelsea.png
Copyright: Stefan van der Walt
License: CC0-1.0

Files: skimage/data/coffee.png
Copyright: Rachel Michetti
License: CC0-1.0

Files: skimage/data/hubble_deep_field.jpg
Copyright: NASA
License: public domain

Files: skimage/data/retina.jpg
Copyright: Mikael Häggström
License: CC0-1.0
Source: https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg

Files: skimage/data/rocket.jpg
Copyright: SpaceX
License: public domain
"""
# sklearn/datasets/images/README.txt.
_SCIKIT_LEARN = """
Files: sklearn/datasets/images/china.jpg
Copyright: danielbuechele
License: CC-BY-2.0
Source: https://www.flickr.com/photos/danielbuechele/6061409035/

Files: sklearn/datasets/images/flower.jpg
Copyright: vultilion
License: CC-BY-2.0
Source: https://www.flickr.com/photos/vultilion/6056698931/
"""
# The .desktop files beside the pictures; two more are under the GNU FDL.
_PALAPELI = """
Files: */cincinnati-bridge.jpg
Copyright: Derek Jensen
License: public domain
Source: https://commons.wikimedia.org/wiki/File:Cincinnati-roebling-suspension-bridge.jpg

Files: */citrus-fruits.jpg
Copyright: US Department of Agriculture
License: public domain
Source: https://commons.wikimedia.org/wiki/File:Citrus_fruits.jpg

Files: */european-honey-bee.jpg
Copyright: John Severns
License: public domain
Source: https://commons.wikimedia.org/wiki/File:European_honey_bee_extracts_nectar.jpg
"""
_KDE = "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path"
_LXQT = "Butterfly-Kenneth-Wimer Valendas after-the-rain appleflower beam butterfly cloud drop flowers fog"

SOURCES = (
    Source(
        DEBIAN,
        "gcompris-qt-data",
        (
            "*/categorization/resource/images/*.webp",
            "*/clickgame/resource/sea*.webp",
            "*/details/resource/image/*_background.webp",
            "*/erase/resource/*.webp",
            "*/explore_farm_animals/resource/animals/*.webp",
            "*/explore_monuments/resource/*.webp",
            "*/explore_world_animals/resource/animals/*.webp",
            "*/explore_world_music/resource/music/*.webp",
        ),
        README,
        (
            "*/images/alphabets/*",
            "*/images/numbers/*",
            # Paintings.
            "*/Eglise_dAuvers*",
            "*/Gogh4*",
            "*/PortraitOfPereTanguy*",
            "*/VincentVanGogh*",
            "*/Van_Gogh*",
        ),
    ),
    Source(
        DEBIAN,
        "lomiri-wallpapers-16.04",
        ("usr/share/backgrounds/*.jpg",),
        COPYRIGHT,
        ("*/analogpattern_*", "*/umang_*"),  # no photographs
    ),
    Source(DEBIAN, "lomiri-wallpapers-20.04", ("*/Kleiber_*.jpg",), COPYRIGHT),
    Source(
        DEBIAN,
        "libjxl-testdata",
        ("*/external/wesaturate/500px/*_srgb8.png", "*/jxl/flower/flower.png"),
        COPYRIGHT,
        ("*_grayscale_srgb8.png",),
    ),
    Source(DEBIAN, "palapeli-data", ("*/collection/*.jpg",), _PALAPELI),
    Source(PYPI, "scikit-image", ("skimage/data/*.png", "skimage/data/*.jpg"), _SCIKIT_IMAGE),
    Source(PYPI, "scikit-learn", ("sklearn/datasets/images/*.jpg",), _SCIKIT_LEARN),
    Source(
        DEBIAN,
        "plasma-workspace-wallpapers",
        tuple(f"*/wallpapers/{name}/contents/images/*.jpg" for name in _KDE.split()),
        METADATA,
        gpl=True,
    ),
    Source(DEBIAN, "mate-backgrounds", ("*/mate/nature/*.jpg",), COPYRIGHT, gpl=True),
    Source(
        DEBIAN,
        "lxqt-themes",
        tuple(f"*/wallpapers/{name}.*" for name in (*_LXQT.split(), "this-is-not-windows")),
        COPYRIGHT,
        gpl=True,
    ),
)
