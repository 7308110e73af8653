"""Files over the network: https:// by HTTP range requests; gs://, s3:// and others by fsspec.

`stores` makes one request, `servers` repeats requests that may succeed later, `cache` keeps what was read on
disk, and `files` reads through both.
"""

from nepa_keras.data.network.cache import DiskCache
from nepa_keras.data.network.files import (
    NetworkFile,
    NetworkFiles,
    in_parallel,
    network_files,
    use_cache,
)
from nepa_keras.data.network.stores import FileState, NetworkError, RefusedError, scheme

__all__ = [
    "DiskCache",
    "FileState",
    "NetworkError",
    "NetworkFile",
    "NetworkFiles",
    "RefusedError",
    "in_parallel",
    "network_files",
    "scheme",
    "use_cache",
]
