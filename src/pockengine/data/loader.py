"""Batches of an epoch in an order that is always the same, prepared in the background."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pockengine.data.augment import Augmentation, augmented
from pockengine.data.base import Array, Batch, Dataset
from pockengine.errors import InputError


class Loader:
    """Every sample of a data set once an epoch; the last batch holds what is left over.

    Order and augmentation depend on (seed, number of the epoch) alone.

    >>> from pockengine.data.arrays import ArrayDataset
    >>> data = ArrayDataset(np.arange(10.0)[:, None], np.arange(10) % 2)
    >>> [len(y) for x, y in Loader(data, batch=4).epoch(0)]
    [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        seed: int = 0,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        prefetch: int = 2,
    ) -> None:
        """A thread has up to `prefetch` batches ready ahead; with 0 there is no thread.

        Raises InputError for numbers that are out of range.
        """
        for name, value, least in (
            ("batch", batch, 1),
            ("seed", seed, 0),
            ("prefetch", prefetch, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        self.dataset, self.batch, self.seed = dataset, batch, seed
        self._augment, self._shuffle, self._prefetch = augment, shuffle, prefetch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.dataset) // self.batch)

    def order(self, epoch: int) -> list[Array]:
        """The indices of the samples of each batch; nothing is loaded."""
        count = len(self.dataset)
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(count) if self._shuffle else np.arange(count)
        return [order[first : first + self.batch] for first in range(0, count, self.batch)]

    def epoch(self, epoch: int) -> Generator[Batch]:
        """The batches of an epoch. What goes wrong in loading one is raised where it is due.

        Leaving the loop early, or closing the iterator, stops the thread.
        """
        order = self.order(epoch)
        if self._prefetch == 0:
            yield from (self._load(indices, epoch) for indices in order)
            return
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="pockengine-loader")
        try:
            for indices in order:
                ahead.append(pool.submit(self._load, indices, epoch))
                if len(ahead) > self._prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, indices: Array, epoch: int) -> Batch:
        x, y = self.dataset.batch(indices)
        if self._augment is not None:
            x = augmented(x, indices, self._augment, self.seed, epoch)
        return Batch(x, y)
