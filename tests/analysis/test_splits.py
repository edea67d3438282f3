"""Splits of an analysis: by seed, in proportion, and refused where they can measure nothing."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from pockengine.analysis.samples import read_samples, write_samples
from pockengine.analysis.splits import Sizes, write_splits
from pockengine.data.dataset import ArrayDataset
from pockengine.errors import AnalysisError


def dataset(count: int, classes: int = 3, seed: int = 0) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 4)).astype(np.float32)
    return ArrayDataset(x, np.arange(count) % classes, [f"class {i}" for i in range(classes)])


def indices(folder: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / f"{seed}.npz") as file:
        return file["train"], file["validation"]


def test_each_seed_holds_out_another_part(tmp_path: Path) -> None:
    assert write_splits([dataset(300)], (0, 1), Sizes(150, 60), tmp_path) == Sizes(150, 60)
    train, validation = indices(tmp_path, 0)
    assert not set(train) & set(validation)
    assert np.bincount(validation % 3).tolist() == [20, 20, 20]
    assert set(indices(tmp_path, 1)[1]) != set(validation)
    first = train.tolist()
    write_splits([dataset(300)], (0, 1), Sizes(150, 60), tmp_path)
    assert indices(tmp_path, 0)[0].tolist() == first


def test_groups_of_several_sizes_give_splits_of_one_size(tmp_path: Path) -> None:
    """And the sizes, given again, bring the same samples: a check judges as its analysis did."""
    people = np.repeat(np.arange(31), np.random.default_rng(4).integers(5, 40, 31))
    data, seeds = dataset(len(people)).grouped(people), (0, 1, 2)
    sizes = write_splits([data], seeds, Sizes(10_000, 10_000), tmp_path / "a")
    assert write_splits([data], seeds, sizes, tmp_path / "b") == sizes
    for seed in seeds:
        first, again = indices(tmp_path / "a", seed), indices(tmp_path / "b", seed)
        assert [len(part) for part in first] == [sizes.train, sizes.validation]
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not set(people[first[0]]) & set(people[first[1]])


def test_groups_stay_whole(tmp_path: Path) -> None:
    documents = np.arange(300) // 5
    write_splits([dataset(300).grouped(documents)], (0, 1), Sizes(150, 60), tmp_path)
    for seed in (0, 1):
        train, validation = indices(tmp_path, seed)
        assert not set(documents[train]) & set(documents[validation])


def test_a_given_validation_set_stays_apart(tmp_path: Path) -> None:
    sets = [dataset(90), dataset(60, seed=1)]
    assert write_splits(sets, (5,), Sizes(1000, 1000), tmp_path) == Sizes(90, 60)
    train, validation = indices(tmp_path, 5)
    assert train.tolist() == list(range(90)) and validation.tolist() == list(range(90, 150))


def test_too_little_data_is_refused_with_the_interval(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"9 validation samples are too few.* ±27 points"):
        write_splits([dataset(30)], (0,), Sizes(100, 100), tmp_path)


def test_a_class_that_one_set_lacks_is_refused_by_name(tmp_path: Path) -> None:
    fewer = ArrayDataset(np.zeros((60, 4), np.float32), np.arange(60) % 2, ["class 0", "class 1"])
    with pytest.raises(AnalysisError, match="'class 2' are in the training set and missing from"):
        write_splits([dataset(90), fewer], (0,), Sizes(100, 100), tmp_path)


@pytest.mark.parametrize("kind", ["array", "tuple", "dict"])
def test_samples_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 130, 3)).astype(np.float32)
    x = {"array": a, "tuple": (a, b), "dict": {"left": a, "right/eye": b}}[kind]
    data = ArrayDataset(x, np.arange(130) % 2)
    write_samples([data, data], tmp_path)
    batch = read_samples(tmp_path).batch([129, 131])
    expected = data.batch([129, 1])
    assert np.array_equal(batch.y, expected.y)
    found = batch.x
    for one, other in zip(_arrays(found), _arrays(expected.x), strict=True):
        assert np.array_equal(one, other)
    assert type(found) is type(expected.x)


def _arrays(x: object) -> list[np.ndarray]:
    if isinstance(x, dict):
        return [x[name] for name in sorted(x)]
    return list(x) if isinstance(x, tuple) else [x]


def test_the_same_number_chooses_the_same_samples_again(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(22), [7] * 20 + [100, 1])  # shares of 7 are rounded, one is alone
    data = ArrayDataset(np.zeros((len(labels), 4), np.float32), labels)
    sizes = write_splits([data, data], (0,), Sizes(120, 120), tmp_path / "a")
    assert sizes == Sizes(120, 120)
    write_splits([data, data], (0,), sizes, tmp_path / "b")
    for one, other in zip(indices(tmp_path / "a", 0), indices(tmp_path / "b", 0), strict=True):
        assert np.array_equal(one, other)


def test_sets_that_number_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    x = np.zeros((60, 4), np.float32)
    sets = [ArrayDataset(x, ["cat", "dog"] * 30), ArrayDataset(x, ["dog", "fox"] * 30)]
    with pytest.raises(AnalysisError, match="class 0 is 'cat' in the training set and 'dog' in"):
        write_splits(sets, (0,), Sizes(100, 100), tmp_path)


def test_inputs_by_name_may_come_in_another_order(tmp_path: Path) -> None:
    a, b = np.zeros((8, 3), np.float32), np.ones((8, 3), np.float32)
    sets = [ArrayDataset(x, np.arange(8) % 2) for x in ({"a": a, "b": b}, {"b": b, "a": a})]
    write_samples(sets, tmp_path)
    found = read_samples(tmp_path).x
    assert isinstance(found, dict) and not found["a"].any() and found["b"].all()


def test_samples_of_another_form_are_refused(tmp_path: Path) -> None:
    wide, narrow = np.zeros((8, 3, 4), np.float32), np.zeros((8, 1, 4), np.float32)
    sets = [ArrayDataset(x, np.arange(8) % 2) for x in (wide, narrow)]
    with pytest.raises(AnalysisError, match=r"samples from 8 on.*x0 float32\[1, 4\], .*expected"):
        write_samples(sets, tmp_path)


def test_samples_without_labels(tmp_path: Path) -> None:
    write_samples([ArrayDataset(np.zeros((8, 3), np.float32))], tmp_path)
    assert read_samples(tmp_path).labels is None


def test_an_interrupted_write_leaves_nothing_to_be_taken_for_other_samples(tmp_path: Path) -> None:
    ours, theirs = dataset(130), dataset(130, seed=1)
    write_samples([ours], tmp_path)
    stopping = patch.object(theirs, "_load", side_effect=[np.ones((64, 4)), KeyboardInterrupt])
    with stopping, pytest.raises(KeyboardInterrupt):
        write_samples([theirs], tmp_path)
    write_samples([ours], tmp_path)
    assert np.array_equal(read_samples(tmp_path).x, ours.x)


def test_a_damaged_index_is_written_again(tmp_path: Path) -> None:
    write_samples([dataset(8)], tmp_path)
    (tmp_path / "samples.json").write_text('{"kind": ')
    write_samples([dataset(8)], tmp_path)
    assert np.array_equal(read_samples(tmp_path).x, dataset(8).x)
