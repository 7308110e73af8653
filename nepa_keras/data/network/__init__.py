"""Files over the network: https:// by HTTP ranges, gs://, s3:// and others by fsspec.

stores.py asks once, servers.py again where that may help, cache.py keeps what came on a disk, and files.py
reads through both.
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
