"""Image files as they occur: odd ones with the pixels a person expects, bad ones with the reason.

A picture of smooth colours, so that lossy formats stay close to it.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

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


def png_of_chunks(width: int, height: int, depth: int, colors: int, **chunks: bytes) -> bytes:
    """A PNG by hand; `colors` is 0 of grey, 2 of RGB, 4 of grey with alpha, 6 of RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0))
    others = [chunk(kind.encode(), data) for kind, data in chunks.items()]
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *others, chunk(b"IEND", b"")])


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, without them."""
    return png_of_chunks(width, height, 8, 2, IDAT=zlib.compress(b"\0" * 1000))


def png_16_bit(values: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of uint16 (height, width, 1 to 4), which Pillow does not write in colours."""
    height, width, channels = values.shape
    lines = values.astype(">u2").view(np.uint8).reshape(height, -1)
    step = np.diff(
        lines.reshape(height, width, -1), axis=1, prepend=np.uint8(0)
    )  # the filter "Sub"
    packed = np.insert(step.reshape(height, -1), 0, 1, axis=1).tobytes()
    colors = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png_of_chunks(width, height, 16, colors, **chunks, IDAT=zlib.compress(packed))


def tiff_by_hand(values: np.ndarray, photometric: int = 1, compressed: bool = False) -> bytes:
    """A TIFF of uint16, uint32 or float32 (height, width, 1 or 3) in the byte order of its type."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    height, width, channels = values.shape
    content = zlib.compress(values.tobytes()) if compressed else values.tobytes()
    bits, kind = 8 * values.itemsize, 3 if values.dtype.kind == "f" else 1
    # number: (type, count, value); type 3 is of two bytes, 4 of four
    tags = {
        256: (3, 1, width),
        257: (3, 1, height),
        258: (3, channels, bits),
        259: (3, 1, 8 if compressed else 1),
        262: (3, 1, photometric),
        273: (4, 1, 8 + 2 + 10 * 12 + 4 + 4 * channels),
        277: (3, 1, channels),
        278: (3, 1, height),
        279: (4, 1, len(content)),
        339: (3, channels, kind),
    }
    entries, behind, end = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for number, (size, count, value) in tags.items():
        entries += struct.pack(f"{order}HHI", number, size, count)
        if count > 1:
            entries += struct.pack(f"{order}I", end + len(behind))
            behind += struct.pack(f"{order}{count}H", *[value] * count)
        else:
            entries += struct.pack(f"{order}{'HH' if size == 3 else 'I'}", *[value, 0][: 5 - size])
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + behind.ljust(4 * channels, b"\0") + content


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
        xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp + " " * 2_000_000, zip=True)
        exact = {"lossless": True}
        for place, (kind, options) in {
            "exif_in_png": ("PNG", {"exif": exif}),
            "exif_in_webp": ("WEBP", {"exif": exif, **exact}),
            "exif_in_tiff": ("TIFF", {"exif": exif}),
            "xmp_in_png": ("PNG", {"pnginfo": text}),
            "xmp_in_webp": ("WEBP", {"xmp": xmp.encode(), **exact}),
        }.items():
            files[f"{place}_{orientation}"] = (save(image, kind, **options), expected, 0)
        files[f"jpeg_xmp_{orientation}"] = (
            save(image, "JPEG", quality=95, xmp=xmp.encode()),
            expected,
            24,
        )
    for orientation in (0, 9):  # which mean nothing
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"exif_in_png_{orientation}"] = (save(image, "PNG", exif=exif), rgb, 0)
        files[f"jpeg_turned_{orientation}"] = (
            save(image, "JPEG", quality=95, exif=exif),
            rgb,
            24,
        )
    damaged = {
        "garbage": b"garbage" * 9,
        "cut": b"II*\0\x08\0\0\0\5\0\x12\1",
        "text": b"II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\0" + b"6\0\0\0" + bytes(4),
        "nothing": b"",
    }
    for name, content in damaged.items():
        exif = b"Exif\0\0" + content
        files[f"jpeg_exif_{name}"] = (save(image, "JPEG", quality=95, exif=exif), rgb, 24)
        files[f"png_exif_{name}"] = (save(image, "PNG", exif=exif), rgb, 0)
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
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 3_000_000)
    text.add_text("more", "x" * 3_000_000, zip=True)
    files["png_text"] = (save(image, "PNG", pnginfo=text), rgb, 0)
    files["png_profile"] = (save(image, "PNG", icc_profile=bytes(3_000_000)), rgb, 0)
    files |= _deep_files(rgb)
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


def _deep_files(rgb: np.ndarray) -> dict[str, tuple[bytes, np.ndarray, int]]:
    """Pictures of 16 bits."""
    deep = rgb.astype(np.uint16) * 257
    big, red = deep.astype(">u2"), deep[..., :1]
    grey = np.repeat(rgb[..., :1], 3, axis=-1)
    opaque = np.full((HEIGHT, WIDTH, 1), 65_535, np.uint16)
    opaque[0] = 0
    over_white, grey_over_white = rgb.copy(), grey.copy()
    over_white[0] = grey_over_white[0] = 255
    clear = np.where((rgb == rgb[3, 4]).all(-1, keepdims=True), np.uint8(255), rgb)
    key = deep[3, 4].astype(">u2").tobytes()
    return {
        "png_16_colors": (png_16_bit(deep), rgb, 0),
        "png_16_grey": (png_16_bit(red), grey, 0),
        "png_16_alpha": (png_16_bit(np.concatenate([deep, opaque], -1)), over_white, 0),
        "png_16_grey_alpha": (png_16_bit(np.concatenate([red, opaque], -1)), grey_over_white, 0),
        "png_16_one_clear_color": (png_16_bit(deep, tRNS=key), clear, 0),
        "tiff_16_colors": (tiff_by_hand(deep, 2), rgb, 0),
        "tiff_16_colors_big_endian": (tiff_by_hand(big, 2), rgb, 0),
        "tiff_16_colors_packed": (tiff_by_hand(deep, 2, compressed=True), rgb, 0),
        "tiff_16_colors_packed_big_endian": (tiff_by_hand(big, 2, compressed=True), rgb, 0),
        "tiff_16_big_endian": (tiff_by_hand(big[..., :1]), grey, 0),
        "tiff_16_white_is_zero": (tiff_by_hand(red, 0), 255 - grey, 0),
        "pgm_12_bit": (
            b"P5 %d %d 4095\n" % (WIDTH, HEIGHT)
            + np.round(rgb[..., 0] * (4095 / 255)).astype(">u2").tobytes(),
            grey,
            1,
        ),
        "npy_big_endian": (npy(big), rgb, 0),
        "npy_half": (npy((rgb / 255).astype("float16")), rgb, 0),
    }


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
        "npy_channels_first": (
            npy(np.zeros((3, 4, 5), np.uint8)),
            "move its first axis to the end",
        ),
        "npy_too_long": (npy(np.zeros((70_000, 1, 3), np.uint8)), "longer than 65,535"),
        "png_too_tall": (save(Image.new("1", (1, 99_000_000)), "PNG"), "longer than 65,535"),
        "tiff_32_bit": (tiff_by_hand(np.ones((4, 4, 1), np.uint32)), "32-bit pixels have no known"),
        "npy_bool": (npy(np.ones((4, 4, 3), bool)), "bool pixels are not"),
        "npy_line": (npy(np.zeros(4, np.uint8)), r"shape \(4,\) is not"),
        "npy_no_pixels": (npy(np.zeros((0, 4, 3), np.uint8)), "no pixels"),
        "npy_nan": (npy(np.full((4, 4, 3), np.nan, "float32")), "not all numbers"),
        "npy_negative": (npy(np.full((4, 4, 3), -1.0, "float32")), "not uint8, uint16 or floats"),
        "npy_int64": (npy(np.zeros((4, 4, 3), np.int64)), "int64 pixels from 0 to 0 are not"),
        "npy_huge": (_npy_of_shape((10**6, 10**6, 3)), "are not its"),
        "npy_cut": (npy(picture())[:-1], "are not its"),
    }
    headers = {
        "cut": b"{'descr': '|u1', 'fortran_order': False, 'shape': (8,8",
        "indented": b"{'descr':\n  '|u1'\n 'fortran",
        "no_python": b"1e",
        "no_literal": b"open('x')",
        "nested": b"[" * 5000,
        "no_type": b"{'descr': [('a',)], 'fortran_order': False, 'shape': (24, 36, 3)}",
        "negative": b"{'descr': '|u1', 'fortran_order': False, 'shape': (-24, -36, 3)}",
        "sub_type": b"{'descr': '(3,)u1', 'fortran_order': False, 'shape': (24, 36)}",
        "huge": b"{'descr': '|u1', 'fortran_order': False, 'shape': (0, %d, 3)}" % 10**30,
        "keys": b"{1: 2, 'a': 3}",
        "zero": bytes(40),
    }
    for name, header in headers.items():
        content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
        files[f"npy_header_{name}"] = (content + picture().tobytes(), "damaged .npy")
    files["npy_only_magic"] = (b"\x93NUMPY", "damaged .npy")
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
