"""How far a long work is and how long it will take, for works without a progress bar of their own.

A terminal has one line that is drawn again; a file or a pipe gets a line now and then.
"""

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

_EVERY = 10.0  # seconds between two lines in a file
_REDRAWN = 0.5  # seconds until the line on a terminal is drawn again

_drawn: list[tuple[TextIO, int]] = []  # the terminal that shows a line now, and how long that is


def say_result(text: str) -> None:
    """Print a result amid a work, in place of the line that a terminal shows of it."""
    clear()
    print(text, flush=True)


def counter(total: int, what: str, file: TextIO | None = None) -> Callable[[], None]:
    """A function to call after each of `total` parts, which says how many are done and the time left.

    Args:
        total: parts of the work.
        what: a part, before its number.
        file: to write to; default standard output.
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
    """The items of a long loop, with lines of `counter`."""
    count = counter(total, what)
    for item in items:
        yield item
        count()
    clear()  # where there were fewer


def clear() -> None:
    """Take the line from the terminal that shows one, so that other words can follow."""
    while _drawn:
        stream, length = _drawn.pop()
        print(f"\r{' ' * length}\r", end="", file=stream, flush=True)
