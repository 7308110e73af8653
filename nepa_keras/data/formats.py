"""Image formats that need more than Pillow alone: HEIC (pillow-heif) and AVIF (Pillow 11.3 or later)."""

import functools

_HEIC = "pip install pillow-heif"
_AVIF = "pip install 'pillow>=11.3'"
# Ending -> command that installs a reader, for endings that the installed packages may not read.
INSTALLS = {".heic": _HEIC, ".heif": _HEIC, ".hif": _HEIC, ".avif": _AVIF}
# Endings of DICOM files, which the library does not read: their pixels must be saved as arrays first.
DICOM = (".dcm", ".dicom", ".dic")
# Brands of ISO base media files (ISO/IEC 14496-12, bytes 8 to 12) that hold images.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), ("AVIF", _AVIF)),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ("HEIC", _HEIC)
    ),
}


@functools.cache
def register_formats() -> None:
    """Register the readers of the installed packages with Pillow, once per process."""
    from PIL import Image

    Image.init()
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def media_format(data: bytes) -> str | None:
    """Format of a file's content, "HEIC" or "AVIF"; None for any other."""
    return _BRANDS.get(data[8:12], (None,))[0] if data[4:8] == b"ftyp" else None


def missing_reader(data: bytes) -> str | None:
    """Reason why an image of a known format cannot be read, with the command that installs a reader.

    Args:
        data: content of a file that Pillow does not recognise.
    """
    if (name := media_format(data)) is None:
        return None
    install = _BRANDS[data[8:12]][1]
    return f"an image in {name}, which the installed packages do not read: {install}"
