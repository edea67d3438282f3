"""Windows, the split in time, and batches."""

import numpy as np
import pytest

from pockengine.data.windows import cut_windows, shuffled_batches, split_in_time, standardise


def ramp(length: int, channels: int = 2) -> np.ndarray:
    return np.arange(length * channels, dtype=np.float32).reshape(length, channels)


def test_each_window_is_a_stretch_of_the_series() -> None:
    series = ramp(20)
    windows = cut_windows(series, length=8, hop=4)
    assert windows.shape == (4, 2, 8)
    for i, window in enumerate(windows):
        np.testing.assert_array_equal(window, series[4 * i : 4 * i + 8].T)


@pytest.mark.parametrize(("length", "count"), [(0, 0), (7, 0), (8, 1), (11, 1), (12, 2)])
def test_only_whole_windows_are_cut(length: int, count: int) -> None:
    assert cut_windows(ramp(length), length=8, hop=4).shape == (count, 2, 8)


def test_no_sample_is_on_both_sides_of_the_border() -> None:
    first, rest = split_in_time(ramp(101), 0.4)
    assert len(first) == 40
    assert first.max() < rest.min()
    assert len(first) + len(rest) == 101


def test_standardised_channels_have_mean_0_and_deviation_1() -> None:
    series = ramp(50)
    scaled = standardise(series, series.mean(0), series.std(0))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-5)


def test_every_sample_comes_once_and_with_its_label() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    y = np.arange(10)
    batches = list(shuffled_batches(x, y, 4, np.random.default_rng(0)))
    assert [len(b) for b, _ in batches] == [4, 4, 2]
    assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(10))
    for samples, labels in batches:
        np.testing.assert_array_equal(samples[:, 0], labels)
