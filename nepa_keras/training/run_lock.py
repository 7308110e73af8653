"""Lock of a run's folder: one process per run."""

import os
from pathlib import Path
from typing import Any

# Locks of this process by folder: open file, number of locks.
_held: dict[Path, tuple[Any, int]] = {}


class RunLock:
    """Lock a folder for this process; the system releases the lock when the process ends, however it ends.

    A left-over file `lock` blocks nobody. A process may lock a folder several times, and holds it until each
    lock is released; as a context the lock releases itself.

    Args:
        folder: existing folder.

    Raises:
        BlockingIOError: another process holds the lock.

    Example:
        >>> with RunLock("."):
        ...     pass  # no other process can train in this folder now
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
        """Release the lock before the process ends."""
        file, count = _held.pop(self.folder)
        if count > 1:
            _held[self.folder] = (file, count - 1)
        else:
            file.close()


def _locked(folder: Path) -> Any:
    import fcntl

    file = open(folder / "lock", "a+")  # noqa: SIM115  closed by `release` or with the process
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise BlockingIOError(
            f"{folder} is in use by process {holder}; wait until it ends, or use another folder."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
