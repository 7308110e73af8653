"""Stores of files over the network: HTTP servers, and those of fsspec; each call makes one request."""

import functools
from typing import NamedTuple

from nepa_keras.files import printable
from nepa_keras.packages import required_for

_TIMEOUT = 30  # seconds without receiving a byte
_LONGEST_WAIT = 60.0  # seconds; limit of a wait that a server asks for
_CONNECTIONS = 64
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
_CONTENT_TAGS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "created")


class NetworkError(ValueError):
    """A file over the network cannot be read: it is missing, has changed, or its server does not answer."""


class RefusedError(NetworkError):
    """The server refuses a request; repeating it would not help."""


class FileState(NamedTuple):
    """State of a file as its server describes it.

    Attributes:
        size: size in bytes.
        tag: text that changes with the content: ETag, or the time of the last change; "" if unknown.
    """

    size: int
    tag: str


class BusyError(OSError):
    """An answer such as HTTP 503: the request may be repeated later.

    Attributes:
        wait: seconds that the server asks for.
    """

    def __init__(self, status: int, wait: str):
        super().__init__(f"HTTP {status}")
        self.wait = min(float(wait), _LONGEST_WAIT) if wait.isdigit() else 0.0


def scheme(address: str) -> str:
    """Scheme of an address: the text before "://", in lower case; "" for a local path."""
    before, found, _ = address.partition("://")
    return before.lower() if found and before.isalnum() else ""


def reason(error: Exception) -> str:
    """Kind and first words of the error at the root of a chain of errors, on one line."""
    while inner := error.__cause__ or error.__context__:
        if not isinstance(inner, Exception):
            break
        error = inner
    return printable(f"{type(error).__name__}: {error}".replace("\n", " ")[:200].rstrip(": "))


def forbidden(address: str, error: Exception) -> str:
    """Sentence about a file that requires a login."""
    kind = scheme(address)
    if kind in ("http", "https"):
        remedy = "give an address that needs no login, or copy the file"
    else:
        package = _PACKAGES.get(kind, "fsspec")
        remedy = (
            f"log in as {package} wants it; of public data, FSSPEC_S3='{{\"anon\": true}}' or "
            'FSSPEC_GCS=\'{"token": "anon"}\' in the environment reads without a login'
        )
    return f"{printable(address)} may not be read ({reason(error)}): {remedy}."


def store_of(address: str):
    """Store of an address, with methods `state`, `read` and `listing`; each makes one request."""
    return _http() if scheme(address) in ("http", "https") else _Fsspec


@functools.cache
def _http() -> "_Http":
    return _Http()


class _Http:
    """HTTP servers that support range requests."""

    def __init__(self) -> None:
        with required_for("Reading https:// addresses", "requests"):
            import requests
            from requests.adapters import HTTPAdapter
        self.session = requests.Session()
        for prefix in ("http://", "https://"):
            self.session.mount(prefix, HTTPAdapter(pool_maxsize=_CONNECTIONS))

    def state(self, address: str) -> FileState:
        # GET, not HEAD: signed addresses often allow nothing else.
        with self._get(address, 0, 1) as response:
            return _described(address, response)[0]

    def read(
        self, address: str, start: int, stop: int, state: FileState, content: bytearray
    ) -> None:
        with self._get(address, start, stop) as response:
            found, begins = _described(address, response)
            if found != state or begins != start:
                raise NetworkError(
                    f"{printable(address)} changed while it was read: it had {state.size} bytes and the tag "
                    f"{state.tag or 'none'}, now {found.size} and {found.tag or 'none'}. Start again with "
                    "files that stay as they are."
                )
            for piece in response.iter_content(1 << 14):
                content += piece

    def listing(self, address: str, patterns: tuple[str, ...]) -> list[str]:
        raise RefusedError(
            f"{printable(address)} names no file, and an HTTP server does not list its files: write out the "
            "numbers of a range, such as https://host/train-{000..146}.tar."
        )

    def _get(self, address: str, start: int, stop: int):
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        return self.session.get(address, headers=headers, timeout=_TIMEOUT, stream=True)


def _described(address: str, response) -> tuple[FileState, int]:
    """State of the file in an answer, and the offset at which the answer starts."""
    status, headers = response.status_code, response.headers
    if status in (404, 410):
        raise FileNotFoundError
    if status in (401, 403):
        raise PermissionError(f"HTTP {status}")
    if status in (408, 425, 429) or status >= 500:
        raise BusyError(status, headers.get("Retry-After", ""))
    place, _, size = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if status not in (200, 206, 416):
        raise RefusedError(
            f"{printable(address)} cannot be read: its server answers HTTP {status}."
        )
    if status == 200 or not size.isdigit():
        raise RefusedError(
            f"The server of {printable(address)} sends no parts of files (HTTP ranges), which "
            "images in any order need: download the files and name them where they lie."
        )
    tag = headers.get("ETag") or headers.get("Last-Modified") or ""
    begins = place.partition("-")[0]
    return FileState(int(size), tag), int(begins) if begins.isdigit() else -1


class _Fsspec:
    """Stores that fsspec supports, such as gs:// by gcsfs and s3:// by s3fs."""

    @staticmethod
    def _opened(address: str):
        kind = scheme(address)
        with required_for(f"Reading {kind}:// addresses", "fsspec"):
            import fsspec
        try:
            return fsspec.core.url_to_fs(address)
        except ValueError as error:
            raise RefusedError(f"{printable(address)} cannot be opened: {error}.") from None
        except ImportError as error:
            package = _PACKAGES.get(kind)
            how = f": pip install {package}" if package else ""
            raise ImportError(
                f"Reading {kind}:// addresses needs a package ({error}){how}."
            ) from None

    @staticmethod
    def state(address: str) -> FileState:
        system, path = _Fsspec._opened(address)
        system.invalidate_cache()
        found = system.info(path)
        if found["type"] == "directory":
            raise FileNotFoundError
        tag = next((found[name] for name in _CONTENT_TAGS if found.get(name)), "")
        return FileState(int(found["size"]), str(tag))

    @staticmethod
    def read(address: str, start: int, stop: int, state: FileState, content: bytearray) -> None:
        system, path = _Fsspec._opened(address)
        content += system.cat_file(path, start=start, end=stop)

    @staticmethod
    def listing(address: str, patterns: tuple[str, ...]) -> list[str]:
        system, path = _Fsspec._opened(address)
        system.invalidate_cache()
        whole = system.isdir(path)
        for pattern in [f"{path.rstrip('/')}/{p}" for p in patterns] if whole else [path]:
            found = system.glob(pattern, detail=True)
            files = sorted(name for name, about in found.items() if about["type"] != "directory")
            if files:
                return [f"{scheme(address)}://{name}" for name in files]
        return []
