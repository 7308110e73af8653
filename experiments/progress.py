"""Images and batches that say how far they are."""

import copy

from time_left import clear, counter, shown

from nepa_keras import data


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
        if index >= total - 1:
            clear()
        return source.read(index)

    copied.read = read
    return copied
