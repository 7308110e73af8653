"""One process for one run folder."""

import os
from pathlib import Path


class RunLock:
    """Keeps a folder for this process until it ends, however it ends: the system lets go of the lock.

    A file `lock` that is left behind keeps nobody out.

    Args:
        folder: existing.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, folder: str | os.PathLike):
        import fcntl

        path = Path(folder) / "lock"
        self.file = open(path, "a+")  # noqa: SIM115  closed with the process, or by `release`
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.seek(0)
            holder = self.file.read().strip() or "unknown"
            self.file.close()
            raise BlockingIOError(
                f"{folder} is in use by process {holder}; wait until it ends, or name another folder."
            ) from error
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def release(self) -> None:
        """Lets go of it before the process ends."""
        self.file.close()
