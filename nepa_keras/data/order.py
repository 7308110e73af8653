"""Which image comes when: functions of (seed, epoch, index), so that a run can begin anywhere.

The batches of several processes are the parts of one global batch, so the stream is the same for any number
of them. What an epoch leaves after its last whole global batch is dropped: another part each epoch, as the
order is new.
"""

import numpy as np

WINDOW = 4096  # images that are shuffled with each other where a source is read in chunks


def random_numbers(seed: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers (len(indices), count) in [0, 1): a pure function of seed, epoch and index.

    SplitMix64 over a counter per example, so that no generator has to be wound to a position.
    """
    key = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    counter = indices.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(
        count, dtype=np.uint64
    )
    x = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def epoch_order(seed: int, epoch: int, count: int, chunks: np.ndarray | None = None) -> np.ndarray:
    """The indices of an epoch, (count,), each once.

    Args:
        seed, epoch: of the run.
        count: number of images.
        chunks: (K + 1,) where the pieces begin and end that the source reads as a whole; then the pieces are
            shuffled, and the images within windows of pieces that hold at least `WINDOW`.
    """
    generator = np.random.default_rng([seed, epoch])
    if chunks is None:
        return generator.permutation(count)
    order, window = [], []
    for chunk in generator.permutation(len(chunks) - 1):
        window.append(np.arange(chunks[chunk], chunks[chunk + 1]))
        if sum(map(len, window)) >= WINDOW:
            order.append(generator.permutation(np.concatenate(window)))
            window = []
    if window:
        order.append(generator.permutation(np.concatenate(window)))
    return np.concatenate(order)
