"""Batches and sources that print their progress and the time left."""

import copy

from time_left import clear, counter, shown

from nepa_keras import data


class ShownBatches(data.OrderedBatches):
    """`OrderedBatches` that print their progress."""

    def __iter__(self):
        yield from shown(super().__iter__(), len(self), "batch")


def shown_source(source: data.ImageSource, total: int) -> data.ImageSource:
    """Copy of a source that prints its progress; for reading in order by one thread."""
    copied, count = copy.copy(source), counter(total, "image")

    def read(index: int):
        if index:  # the image before is done
            count()
        if index >= total - 1:
            clear()
        return source.read(index)

    copied.read = read
    return copied
