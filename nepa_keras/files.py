"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file or folder to, which then takes the place of `path`.

    Until the block ends, what is at `path` stays as it is; an error leaves it so, and nothing beside it. A
    kill can leave `unfinished-NAME`, which the next write removes. A folder is replaced in two renames: a
    kill between them leaves the old one as `old-NAME`.

    Args:
        path: in an existing folder.
    """
    path = Path(path)
    unfinished, old = (path.with_name(f"{kind}-{path.name}") for kind in ("unfinished", "old"))
    _remove(unfinished)
    try:
        yield unfinished
        if path.is_dir():
            _replace_folder(unfinished, path, old)
        else:
            os.replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise
    _remove(old)


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    _remove(old)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
