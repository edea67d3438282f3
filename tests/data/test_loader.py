"""Batches come in an order that the seed and the epoch decide, whatever runs in the background."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import pockengine as pe
from pockengine.data.augment import Augment
from pockengine.data.base import Array, Inputs
from pockengine.errors import InputError


def numbers(count: int = 10) -> pe.ArrayDataset:
    return pe.ArrayDataset(np.arange(count, dtype=np.float32)[:, None], np.arange(count) % 3)


class Watched(pe.ArrayDataset):
    """Calls a function with the indices before it loads them."""

    def __init__(self, count: int, before: Callable[[Array], None]) -> None:
        super().__init__(np.arange(count, dtype=np.float32)[:, None])
        self._before = before

    def _load(self, indices: Array) -> Inputs:
        self._before(indices)
        return super()._load(indices)


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("pockengine-loader")]


def epoch(loader: pe.Loader, number: int) -> list[list[float]]:
    found = []
    for x, _ in loader.epoch(number):
        assert isinstance(x, np.ndarray)
        found.append(x[:, 0].tolist())
    return found


def test_every_sample_comes_once_and_with_its_label() -> None:
    batches = list(pe.Loader(numbers(), 4).epoch(0))
    assert [len(y) for _, y in batches if y is not None] == [4, 4, 2]
    x = np.concatenate([np.asarray(x)[:, 0] for x, _ in batches])
    y = np.concatenate([np.asarray(y) for _, y in batches])
    assert sorted(x) == list(range(10))
    np.testing.assert_array_equal(y, x % 3)
    assert len(pe.Loader(numbers(), 4)) == 3


def test_order_depends_on_seed_and_epoch_only() -> None:
    loader = pe.Loader(numbers(), 4, seed=5)
    second = epoch(loader, 2)
    epoch(loader, 0)
    np.random.default_rng(0).random()
    np.random.seed(1)
    assert epoch(loader, 2) == second == epoch(pe.Loader(numbers(), 4, seed=5), 2)
    assert second != epoch(loader, 1)
    assert second != epoch(pe.Loader(numbers(), 4, seed=6), 2)


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_prefetching_changes_nothing(prefetch: int) -> None:
    augment = Augment(noise=0.1)
    data = pe.ArrayDataset(np.zeros((10, 1, 6), np.float32))
    found, expected = (
        [np.asarray(x) for x, _ in pe.Loader(data, 3, 7, augment, prefetch=n).epoch(1)]
        for n in (prefetch, 0)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_order_is_known_without_loading() -> None:
    def refuse(indices: Array) -> None:
        raise AssertionError("loaded")

    order = pe.Loader(Watched(10, refuse), 4, seed=5).order(2)
    assert [i.tolist() for i in order] == epoch(pe.Loader(numbers(), 4, seed=5), 2)


def test_without_shuffling_samples_come_in_order() -> None:
    loader = pe.Loader(numbers(5), 2, shuffle=False)
    assert epoch(loader, 0) == epoch(loader, 1) == [[0, 1], [2, 3], [4]]


def test_batches_are_prepared_ahead_and_no_further() -> None:
    loaded: list[int] = []
    batches = pe.Loader(Watched(10, lambda i: loaded.append(len(i))), 1, prefetch=3).epoch(0)
    next(batches)
    deadline = time.monotonic() + 5
    while len(loaded) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(loaded) == 4  # the one that was taken, and three ahead
    del batches
    assert threads() == []


def test_an_error_in_the_background_reaches_the_caller_where_it_is_due() -> None:
    def break_at_7(indices: Array) -> None:
        if 7 in indices:
            raise InputError("seven.png cannot be read")

    loader = pe.Loader(Watched(10, break_at_7), 2, shuffle=False, prefetch=4)
    taken = 0
    with pytest.raises(InputError, match=r"seven.png cannot be read"):
        for _ in loader.epoch(0):
            taken += 1
    assert taken == 3
    assert threads() == []


def test_leaving_the_loop_stops_the_thread() -> None:
    loaded: list[int] = []
    for _ in pe.Loader(Watched(1000, lambda i: loaded.append(1)), 1).epoch(0):
        break
    assert threads() == []
    count = len(loaded)
    time.sleep(0.02)
    assert len(loaded) == count <= 4


def test_two_epochs_at_once() -> None:
    loader = pe.Loader(numbers(), 4)
    pairs = zip(loader.epoch(0), loader.epoch(0), strict=True)
    assert all(np.array_equal(np.asarray(a.x), np.asarray(b.x)) for a, b in pairs)


@pytest.mark.parametrize(
    ("batch", "seed", "prefetch", "words"),
    [
        (0, 0, 2, "batch must be at least 1, got 0"),
        (1, -1, 2, "seed must be at least 0, got -1"),
        (1, 0, -1, "prefetch must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range(batch: int, seed: int, prefetch: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pe.Loader(numbers(), batch, seed, prefetch=prefetch)
