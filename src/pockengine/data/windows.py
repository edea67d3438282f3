"""Long recordings -> windows of equal length -> shuffled batches. All arrays are NumPy."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def cut_windows(series: Floats, length: int, hop: int) -> Floats:
    """(time, channels) -> (count, channels, length), a window every `hop` samples.

    Samples after the last whole window are left out.

    >>> cut_windows(np.arange(10, dtype=np.float32)[:, None], length=4, hop=2).shape
    (4, 1, 4)
    """
    count = max(0, (len(series) - length) // hop + 1)
    starts = np.arange(count) * hop
    gathered = series[starts[:, None] + np.arange(length)]
    return np.ascontiguousarray(gathered.transpose(0, 2, 1))


def split_in_time(series: Floats, share: float) -> tuple[Floats, Floats]:
    """The first `share` of the samples, and the rest. Cut windows after this, never before:
    then no window reaches over the border."""
    border = round(len(series) * share)
    return series[:border], series[border:]


def standardise(series: Floats, mean: Floats, deviation: Floats) -> Floats:
    """(series - mean) / deviation for each channel, in float32."""
    return ((series - mean) / deviation).astype(np.float32)


def shuffled_batches(
    x: Floats, y: Labels, size: int, rng: np.random.Generator
) -> Iterator[tuple[Floats, Labels]]:
    """Every sample once, in random order; the last batch holds what is left over."""
    order = rng.permutation(len(x))
    for start in range(0, len(x), size):
        chosen = order[start : start + size]
        yield x[chosen], y[chosen]
