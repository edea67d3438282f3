"""Augmentation: what it does to a sample, and that nothing but seed, epoch and index decides it."""

from typing import Any

import numpy as np
import pytest

import pockengine as pe
from pockengine.data.augment import Augment, augmented
from pockengine.errors import InputError

ALL = Augment(flip=True, crop=2, brightness=0.2, contrast=0.3, noise=0.05)


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 10, 12), np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_sample_is_changed_alike_in_any_batch() -> None:
    x = images()
    whole = augmented(x, np.arange(8), ALL, seed=1, epoch=2)
    turned = augmented(x[[5, 2]], np.array([5, 2]), ALL, seed=1, epoch=2)
    np.testing.assert_array_equal(turned, whole[[5, 2]])
    np.testing.assert_array_equal(x, images())


def test_seed_epoch_and_index_each_decide() -> None:
    x = np.repeat(images(1), 2, axis=0)
    base, other = augmented(x, np.array([0, 1]), ALL, seed=1, epoch=2)
    assert not np.array_equal(base, other)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        after = augmented(x[:1], np.array([0]), ALL, seed, epoch)[0]
        assert not np.array_equal(base, after)


def test_nothing_asked_for_changes_nothing() -> None:
    x = images()
    np.testing.assert_array_equal(augmented(x, np.arange(8), Augment(), 0, 0), x)


def test_flip_turns_half_of_the_images() -> None:
    sample = images(1)[0]
    after = [Augment(flip=True)(sample, rng(i)) for i in range(400)]
    turned = sum(np.array_equal(a, sample[:, :, ::-1]) for a in after)
    assert turned + sum(np.array_equal(a, sample) for a in after) == 400
    assert 150 < turned < 250


def test_crop_moves_the_image_and_repeats_its_edge() -> None:
    sample = images(1)[0]
    padded = np.pad(sample, ((0, 0), (2, 2), (2, 2)), mode="edge")
    windows = [padded[:, a : a + 10, b : b + 12] for a in range(5) for b in range(5)]
    found = set()
    for i in range(300):
        after = Augment(crop=2)(sample, rng(i))
        (place,) = [k for k, window in enumerate(windows) if np.array_equal(window, after)]
        found.add(place)
    assert found == set(range(25))


def test_brightness_adds_the_same_everywhere() -> None:
    sample = images(1)[0]
    added = [(Augment(brightness=0.2)(sample, rng(i)) - sample) for i in range(100)]
    assert max(np.ptp(a) for a in added) < 1e-6
    means = [float(a.mean()) for a in added]
    assert -0.2 <= min(means) < -0.15 and 0.15 < max(means) <= 0.2001


def test_contrast_keeps_the_mean_and_scales_the_rest() -> None:
    sample = images(1)[0]
    after = [Augment(contrast=0.5)(sample, rng(i)) for i in range(100)]
    np.testing.assert_allclose([a.mean() for a in after], sample.mean(), atol=1e-5)
    scales = [a.std() / sample.std() for a in after]
    assert 0.5 <= min(scales) < 0.6 and 1.4 < max(scales) <= 1.5001


def test_noise_has_its_deviation() -> None:
    sample = np.zeros((3, 64, 64), np.float32)
    assert Augment(noise=0.1)(sample, rng()).std() == pytest.approx(0.1, rel=0.03)


def test_signals_are_moved_in_time() -> None:
    sample = np.arange(20, dtype=np.float32).reshape(2, 10)
    padded = np.pad(sample, ((0, 0), (3, 3)), mode="edge")
    after = Augment(crop=3)(sample, rng(4))
    assert after.shape == sample.shape
    assert any(np.array_equal(after, padded[:, a : a + 10]) for a in range(7))


def test_any_function_can_augment() -> None:
    def negative(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return -sample if rng.random() < 0.5 else sample

    batches = pe.Loader(pe.ArrayDataset(images(64)), 64, augment=negative, shuffle=False)
    ((x, _),) = batches.epoch(0)
    negated = (np.asarray(x).mean((1, 2, 3)) < 0).sum()
    assert 16 < negated < 48


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": -0.1}, "Augment takes noise of at least 0, got -0.1"),
        ({"crop": -1}, "Augment takes crop of at least 0, got -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Augment(**settings)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 3, 4, 4), np.uint8), "of floats, got uint8[3, 4, 4]"),
        (np.zeros((2, 5)), "takes samples (channels, height, width) or (channels, time)"),
        ((np.zeros(2), np.zeros(2)), "samples of one array; these have several inputs"),
        ({"a": np.zeros(2)}, "samples of one array; these have several inputs"),
    ],
)
def test_samples_that_cannot_be_augmented(x: Any, words: str) -> None:
    (first,) = [pe.Loader(pe.ArrayDataset(x), 2, augment=ALL).epoch(0)]
    with pytest.raises(InputError) as error:
        next(first)
    assert words in str(error.value)


def test_a_function_that_makes_another_shape() -> None:
    data = pe.ArrayDataset(images())
    batches = pe.Loader(data, 2, augment=lambda sample, rng: sample[:, 1:]).epoch(0)
    with pytest.raises(InputError) as error:
        next(batches)
    expected = "augmentation made float32[3, 9, 12] of a sample float32[3, 10, 12]"
    assert expected in str(error.value)
