"""Packages with photographs under free licences, and the places where they state author and licence."""

from typing import NamedTuple

DEBIAN, PYPI = "Debian", "PyPI"
# Places where a package states author and licence of a file (`credits.read`): Debian's copyright file, or
# files of this name beside the pictures.
COPYRIGHT, README, METADATA = "copyright", "README", "metadata.json"


class Source(NamedTuple):
    """A package with photographs.

    Attributes:
        registry: `DEBIAN` or `PYPI`.
        package: name in the registry.
        files: patterns of the paths of photographs; `*` also matches `/`.
        stated: place of the credits: `COPYRIGHT`, `README` or `METADATA`; or, if the package states them only
            in prose, their text in the format of Debian's copyright file.
        without: patterns of files to exclude, as they are no photographs.
        gpl: whether all photographs are under the GPL or LGPL.
    """

    registry: str
    package: str
    files: tuple[str, ...]
    stated: str
    without: tuple[str, ...] = ()
    gpl: bool = False


# The licences are stated in the docstrings of skimage.data. Pictures without a licence are not listed: "no
# known copyright restrictions" (coins, ihc), or no statement (moon, motorcycle).
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
# From sklearn/datasets/images/README.txt.
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
# From the .desktop files beside the pictures; two more pictures are under the GNU FDL.
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
