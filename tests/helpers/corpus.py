"""Image files as they occur: odd ones with the pixels a person expects, bad ones with the reason.

A picture of smooth colours, so that lossy formats stay close to it.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 36


def picture() -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3); no symmetry, so that a turn or a mirror image shows."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [8 * y, 6 * x, 120 + 3 * x - 4 * y]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, without them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    data = save(Image.fromarray(picture()), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def odd_files() -> dict[str, tuple[bytes, np.ndarray, int]]:
    """Name -> (content, expected RGB, largest difference that the format's loss explains)."""
    rgb = picture()
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    as_grey = np.repeat(np.asarray(grey)[..., None], 3, axis=-1)
    files = {}
    for quality in (75, 92, 100):
        for subsampling in (0, 1, 2):
            options = {"quality": quality, "subsampling": subsampling}
            files[f"jpeg_{quality}_{subsampling}"] = (save(image, "JPEG", **options), rgb, 24)
    files["jpeg_progressive"] = (save(image, "JPEG", progressive=True, quality=95), rgb, 24)
    files["jpeg_optimised"] = (save(image, "JPEG", optimize=True, quality=95), rgb, 24)
    files["jpeg_grey"] = (save(grey, "JPEG", quality=95), as_grey, 8)
    files["jpeg_cmyk"] = (save(image.convert("CMYK"), "JPEG", quality=95), rgb, 24)
    files["jpeg_garbage_behind"] = (save(image, "JPEG", quality=95) + b"junk" * 50, rgb, 24)
    files["jpeg_comment"] = (save(image, "JPEG", quality=95, comment=b"Exif? no"), rgb, 24)
    files["jpeg_profile"] = (save(image, "JPEG", quality=95, icc_profile=b"x" * 500), rgb, 24)
    turned = {
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.swapaxes(0, 1),
        6: rgb.swapaxes(0, 1)[:, ::-1],
        7: rgb[::-1, ::-1].swapaxes(0, 1),
        8: rgb.swapaxes(0, 1)[::-1],
    }
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = save(image, "JPEG", quality=95, exif=exif.tobytes())
        files[f"jpeg_turned_{orientation}"] = (content, expected, 24)
    for kind in ("PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"):
        exact = kind not in ("GIF", "WEBP")
        options = {"lossless": True} if kind == "WEBP" else {}
        files[kind.lower()] = (save(image, kind, **options), rgb, 0 if exact else 40)
    files["webp_lossless"] = (save(image, "WEBP", lossless=True), rgb, 0)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        files[compression] = (save(image, "TIFF", compression=compression), rgb, 0)
    files["png_grey"] = (save(grey, "PNG"), as_grey, 0)
    files["png_palette"] = (save(image.quantize(64), "PNG"), rgb, 40)
    files["png_one_bit"] = (
        save(Image.fromarray(rgb[..., 0] > 96), "PNG"),
        np.repeat((rgb[..., :1] > 96) * np.uint8(255), 3, axis=-1),
        0,
    )
    deep = np.asarray(grey).astype(np.uint16) * 257
    files["png_16_bit"] = (save(Image.fromarray(deep), "PNG"), as_grey, 0)
    files["tiff_16_bit"] = (save(Image.fromarray(deep), "TIFF"), as_grey, 0)
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[: HEIGHT // 2] = 0
    over_white = np.where(alpha == 0, 255, rgb)
    files["png_alpha"] = (
        save(Image.fromarray(np.concatenate([rgb, alpha], -1)), "PNG"),
        over_white,
        0,
    )
    grey_alpha = Image.merge("LA", (grey, Image.fromarray(alpha[..., 0])))
    files["png_grey_alpha"] = (save(grey_alpha, "PNG"), np.where(alpha == 0, 255, as_grey), 0)
    flat = Image.new("P", (WIDTH, HEIGHT), 0)
    flat.putpalette([10, 20, 30, 40, 50, 60])
    flat.paste(1, (0, 0, WIDTH, HEIGHT // 2))
    expected = np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8)
    expected[: HEIGHT // 2] = 255
    files["png_palette_transparent"] = (save(flat, "PNG", transparency=1), expected, 0)
    expected = np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8)
    expected[: HEIGHT // 2] = (40, 50, 60)
    frames = [flat, Image.new("P", (WIDTH, HEIGHT), 3)]
    files["gif_animated"] = (
        save(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        expected,
        0,
    )
    for shape in ((1, 1), (1, 300), (300, 1), (2, 3)):
        tiny = np.full((*shape, 3), 77, np.uint8)
        files[f"png_{shape[0]}x{shape[1]}"] = (save(Image.fromarray(tiny), "PNG"), tiny, 0)
        files[f"jpeg_{shape[0]}x{shape[1]}"] = (save(Image.fromarray(tiny), "JPEG"), tiny, 2)
    files["npy"] = (npy(rgb), rgb, 0)
    files["npy_fortran"] = (npy(np.asfortranarray(rgb)), rgb, 0)
    files["npy_16_bit"] = (npy(rgb.astype(np.uint16) * 257), rgb, 0)
    files["npy_float"] = (npy(rgb.astype("float32") / 255), rgb, 0)
    return files


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, words of the reason)."""
    image = Image.fromarray(picture())
    files = {
        "empty": (b"", "the file is empty"),
        "text": (b"this is no image\n" * 20, "no image of a known format"),
        "html": (b"<!DOCTYPE html><html>404 Not Found</html>", "no image of a known format"),
        "zip": (b"PK\x03\x04" + bytes(100), "no image of a known format"),
        "zeros": (bytes(5000), "no image of a known format"),
        "only_jpeg_magic": (b"\xff\xd8\xff", ""),
        "only_png_magic": (b"\x89PNG\r\n\x1a\n", ""),
        "png_bomb": (png_of_size(50_000, 50_000), "pixels"),
        "png_wide_bomb": (png_of_size(2**31 - 1, 1), "pixels"),
        "png_no_width": (png_of_size(0, 10), ""),
        "png_lies": (png_of_size(300, 300), ""),
        "jpeg_bomb": (jpeg_of_size(65_500, 65_500), "pixels"),
        "jpeg_no_height": (jpeg_of_size(30, 0), ""),
        "tiff_float": (save(Image.fromarray(np.ones((4, 4), "float32")), "TIFF"), "floating-point"),
        "npy_object": (_pickled_npy(), "damaged .npy"),
        "npy_four_channels": (npy(np.zeros((4, 4, 4), np.uint8)), r"shape \(4, 4, 4\) is not"),
        "npy_line": (npy(np.zeros(4, np.uint8)), r"shape \(4,\) is not"),
        "npy_no_pixels": (npy(np.zeros((0, 4, 3), np.uint8)), "no pixels"),
        "npy_nan": (npy(np.full((4, 4, 3), np.nan, "float32")), "not all numbers"),
        "npy_negative": (npy(np.full((4, 4, 3), -1.0, "float32")), "not uint8, uint16 or floats"),
        "npy_int64": (npy(np.zeros((4, 4, 3), np.int64)), "int64 pixels from 0 to 0 are not"),
        "npy_huge": (_npy_of_shape((10**6, 10**6, 3)), "are not its"),
        "npy_cut": (npy(picture())[:-1], "are not its"),
    }
    whole = {
        "jpeg": save(image, "JPEG", quality=95),
        "progressive": save(image, "JPEG", quality=95, progressive=True),
        "png": save(image, "PNG"),
        "webp": save(image, "WEBP", lossless=True),
        "gif": save(image, "GIF"),
    }
    for kind, content in whole.items():
        for percent in (5, 15, 30, 40, 50, 60, 70):
            files[f"{kind}_cut_at_{percent}"] = (content[: len(content) * percent // 100], "")
    return files


def _pickled_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def _npy_of_shape(shape: tuple) -> bytes:
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(100)
