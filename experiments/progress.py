"""Lines that say how far a long work is, for works without a progress bar of their own."""

import copy
import datetime
import time
from collections.abc import Callable, Iterable, Iterator

from nepa_keras import data

_EVERY = 10.0  # seconds between two lines


def counter(total: int, what: str) -> Callable[[], None]:
    """A function to call after each of `total` parts; prints a line now and then, with the time left."""
    started = said = time.perf_counter()
    done = 0

    def count() -> None:
        nonlocal done, said
        done, now = done + 1, time.perf_counter()
        if now - said < _EVERY or done >= total:
            return
        said = now
        left = datetime.timedelta(seconds=round((now - started) / done * (total - done)))
        print(f"{what} {done:,} of {total:,}, {left} left", flush=True)

    return count


def shown(items: Iterable, total: int, what: str) -> Iterator:
    """The items of a long loop, with lines of `counter`."""
    count = counter(total, what)
    for item in items:
        yield item
        count()


class ShownBatches(data.OrderedBatches):
    """`OrderedBatches` that say how far they are."""

    def __iter__(self):
        yield from shown(super().__iter__(), len(self), "batch")


def shown_source(source: data.ImageSource, total: int) -> data.ImageSource:
    """A copy of a source, read in order by one thread, that says how far it is."""
    copied, count = copy.copy(source), counter(total, "image")

    def read(index: int):
        if index:  # those before are done
            count()
        return source.read(index)

    copied.read = read
    return copied
