"""The compiled resize gives Pillow's numbers, so a run is the same with and without it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nepa_keras.data.transforms import fast_resize
from nepa_keras.data.transforms.resample import resize, resize_and_scale, scale
from tests.helpers.scripts import run_python

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def by_pillow(pixels, image_size, interpolation, box, flip) -> np.ndarray:
    top, left, height, width = box
    part = Image.fromarray(pixels[top : top + height, left : left + width])
    part = part.resize(image_size[::-1], FILTERS[interpolation])
    return np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else part)


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    h, w = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    size = draw(st.integers(1, 260)), draw(st.integers(1, 260))
    return (
        height,
        width,
        (top, left, h, w),
        size,
        draw(st.sampled_from(list(FILTERS))),
        draw(st.booleans()),
    )


@pytest.mark.once
@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_number_is_that_of_pillow(case):
    height, width, box, size, interpolation, flip = case
    pixels = noise(height, width)
    expected = by_pillow(pixels, size, interpolation, box, flip)
    np.testing.assert_array_equal(resize(pixels, size, interpolation, box, flip), expected)
    out = np.empty((*size, 3), "float32")
    resize_and_scale(pixels, out, interpolation, box, flip)
    np.testing.assert_array_equal(out, scale(expected))


@pytest.mark.once
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    "sizes",
    [
        ((375, 500), (224, 224)),
        ((500, 200), (224, 224)),
        ((90, 90), (224, 224)),
        ((900, 60), (7, 59)),
    ],
    ids=["smaller", "columns first", "larger", "many taps"],
)
def test_photographs_of_usual_sizes_are_resized_as_by_pillow(sizes, interpolation):
    (height, width), size = sizes
    for pixels in (noise(height, width), np.full((height, width, 3), 255, np.uint8)):
        whole = (0, 0, height, width)
        expected = by_pillow(pixels, size, interpolation, whole, False)
        np.testing.assert_array_equal(resize(pixels, size, interpolation), expected)


def test_without_numba_pillow_does_it():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from nepa_keras.data.transforms.resample import resize\n"
        "pixels = np.arange(40 * 50 * 3).reshape(40, 50, 3).astype('uint8')\n"
        "found = resize(pixels, (24, 20), 'bicubic', (3, 5, 30, 40), True)\n"
        "assert 'nepa_keras.data.transforms.fast_resize' not in sys.modules\n"
        "print(found.tobytes().hex())"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    pixels = np.arange(40 * 50 * 3).reshape(40, 50, 3).astype("uint8")
    found = resize(pixels, (24, 20), "bicubic", (3, 5, 30, 40), True)
    assert result.stdout.strip() == found.tobytes().hex()
    assert fast_resize.resize_part.signatures  # that one was compiled here


@pytest.mark.once
def test_a_part_outside_the_image_is_refused():
    for box in ((0, 0, 9, 4), (-1, 0, 4, 4), (0, 7, 4, 4), (0, 0, 0, 4)):
        with pytest.raises(ValueError, match="not inside an image of 8x10 pixels"):
            resize(noise(8, 10), (4, 4), box=box)
