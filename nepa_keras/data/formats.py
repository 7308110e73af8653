"""Formats of pictures that need more than Pillow itself: HEIC by pillow-heif, AVIF by a Pillow of 11.3 on."""

import functools

_HEIC = "pip install pillow-heif"
_AVIF = "pip install 'pillow>=11.3'"
# Ending -> how its pictures come to be read, where they are not yet.
INSTALLS = {".heic": _HEIC, ".heif": _HEIC, ".hif": _HEIC, ".avif": _AVIF}
# Endings of DICOM, which no package makes readable here: its pixels are saved as arrays first.
DICOM = (".dcm", ".dicom", ".dic")
# Brands of ISO base media files (ISO/IEC 14496-12), bytes 8 to 12, that pictures have.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), ("AVIF", _AVIF)),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ("HEIC", _HEIC)
    ),
}


@functools.cache
def register_formats() -> None:
    """Lets Pillow read what the installed packages bring, once a process."""
    from PIL import Image

    Image.init()
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def media_format(data: bytes) -> str | None:
    """The name of the format of a file's content, HEIC or AVIF; None of another."""
    return _BRANDS.get(data[8:12], (None,))[0] if data[4:8] == b"ftyp" else None


def missing_reader(data: bytes) -> str | None:
    """A reason why a picture of a known format is not read, which names the command that installs a reader.

    Args:
        data: the content of a file that Pillow does not know.
    """
    if (name := media_format(data)) is None:
        return None
    install = _BRANDS[data[8:12]][1]
    return f"a picture in {name}, which the installed packages do not read: {install}"
