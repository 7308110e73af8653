"""Progress and remaining time of long loops that have no progress bar of their own.

On a terminal one line is redrawn; a file or a pipe gets a new line every few seconds.
"""

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

_EVERY = 10.0  # seconds between two lines in a file
_REDRAWN = 0.5  # seconds between two updates on a terminal

_drawn: list[tuple[TextIO, int]] = []  # terminals that show a line now, and its length


def say_result(text: str) -> None:
    """Print a result, in place of the progress line on a terminal."""
    clear()
    print(text, flush=True)


def counter(total: int, what: str, file: TextIO | None = None) -> Callable[[], None]:
    """Return a function to call after each of `total` parts, which prints progress and time left.

    Args:
        total: number of parts.
        what: name of a part, printed before its number.
        file: stream to write to; default standard output.
    """
    stream = file or sys.stdout
    terminal = stream.isatty()
    started = said = time.perf_counter()
    done = 0

    def count() -> None:
        nonlocal done, said
        done, now = done + 1, time.perf_counter()
        if done >= total:
            clear()
            return
        if now - said < (_REDRAWN if terminal else _EVERY):
            return
        said = now
        left = datetime.timedelta(seconds=round((now - started) / done * (total - done)))
        line = f"{what} {done:,} of {total:,}, {left} left"
        if terminal:
            clear()
            _drawn.append((stream, len(line)))
        print(line, end="" if terminal else "\n", file=stream, flush=True)

    return count


def shown(items: Iterable, total: int, what: str) -> Iterator:
    """Iterate over the items of a long loop, and print progress and time left."""
    count = counter(total, what)
    for item in items:
        yield item
        count()
    clear()  # in case there were fewer items than `total`


def clear() -> None:
    """Remove the progress line from the terminal, so that other output can follow."""
    while _drawn:
        stream, length = _drawn.pop()
        print(f"\r{' ' * length}\r", end="", file=stream, flush=True)
