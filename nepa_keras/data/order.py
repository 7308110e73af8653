"""Order and random numbers of images: functions of (seed, epoch, index), so that a run can start anywhere.

The batches of several processes are the parts of one global batch, so the order of images does not depend on
the number of processes. Images after the last whole global batch of an epoch are dropped; as each epoch has a
new order, they are different ones each time.
"""

import numpy as np

WINDOW = 4096  # images that are shuffled together where a source is read in chunks


def random_numbers(seed: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Uniform random numbers (len(indices), count) in [0, 1), determined by seed, epoch and index alone.

    SplitMix64 of one counter per image: no generator has to be advanced to a position.
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
    """Indices of an epoch in their shuffled order, (count,), each once.

    Args:
        seed, epoch: of the run.
        count: number of images.
        chunks: boundaries (chunks + 1,) of the parts of a source that are read as a whole. If given, chunks
            are shuffled, and images only within windows of chunks that hold at least `WINDOW` images.
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
