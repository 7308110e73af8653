"""One process for one run folder."""

import os
from pathlib import Path
from typing import Any

_held: dict[
    Path, tuple[Any, int]
] = {}  # by folder: this process's open file, and its number of locks


class RunLock:
    """Keeps a folder for this process until it ends, however it ends: the system lets go of the lock.

    A file `lock` that is left behind keeps nobody out. A process may lock a folder several times and keeps it
    until each lock is released; a lock is a context that releases it.

    Args:
        folder: existing.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).expanduser().resolve()
        file, count = _held.get(self.folder, (None, 0))
        _held[self.folder] = (file or _locked(self.folder), count + 1)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *error) -> None:
        self.release()

    def release(self) -> None:
        """Lets go of it before the process ends."""
        file, count = _held.pop(self.folder)
        if count > 1:
            _held[self.folder] = (file, count - 1)
        else:
            file.close()


def _locked(folder: Path) -> Any:
    import fcntl

    file = open(folder / "lock", "a+")  # noqa: SIM115  closed with the process, or by `release`
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise BlockingIOError(
            f"{folder} is in use by process {holder}; wait until it ends, or name another folder."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
