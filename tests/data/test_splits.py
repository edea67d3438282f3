"""A split is the same every time, has every class on both sides and no group on both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pockengine as pe
from pockengine.data.splits import split_indices
from pockengine.errors import InputError


def numbered(labels: list[int] | np.ndarray) -> pe.ArrayDataset:
    """Samples that know their own index."""
    return pe.ArrayDataset(np.arange(len(labels)), np.asarray(labels))


def members(data: pe.Dataset) -> list[int]:
    x = data.batch(range(len(data))).x
    assert isinstance(x, np.ndarray)
    return x.tolist()


def test_both_sides_have_the_classes_in_proportion() -> None:
    labels = np.random.default_rng(1).permutation([0] * 60 + [1] * 30 + [2] * 10)
    rest, part = numbered(labels).split(0.2)
    assert sorted(members(rest) + members(part)) == list(range(100))
    assert np.bincount(part.labels).tolist() == [12, 6, 2]  # type: ignore[arg-type]


def test_the_seed_decides() -> None:
    data = numbered([0, 1] * 50)
    splits = [members(data.split(0.3, seed)[1]) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_a_small_class_gives_one_sample_to_either_side() -> None:
    rest, part = numbered([0] * 20 + [1] * 2).split(0.1)
    assert rest.labels is not None and part.labels is not None
    assert (rest.labels == 1).sum() == (part.labels == 1).sum() == 1


def test_targets_are_split_without_classes() -> None:
    data = pe.ArrayDataset(np.arange(10), np.linspace(0, 1, 10))
    assert [len(side) for side in data.split(0.3)] == [7, 3]


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_no_group_is_on_both_sides(data: st.DataObject) -> None:
    """Of every class two groups of its own, so that a split is possible, and mixed ones."""
    classes = data.draw(st.integers(1, 4))
    own = [(c, 2 * c + i) for c in range(classes) for i in range(2)]
    sample = st.tuples(st.integers(0, classes - 1), st.integers(100, 120))
    samples = data.draw(st.permutations(own + data.draw(st.lists(sample, max_size=40))))
    labels, groups = np.array(samples).T
    share = data.draw(st.floats(0.05, 0.95))
    rest, part = split_indices(labels, (), share, data.draw(st.integers(0, 5)), groups)
    assert sorted([*rest, *part]) == list(range(len(samples)))
    assert not set(groups[rest]) & set(groups[part])
    assert set(labels[rest]) == set(labels[part]) == set(range(classes))


def test_groups_are_shared_out_in_proportion() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), rng.integers(1, 9, 200))
    labels = rng.integers(0, 5, 200)[groups]
    rest, part = numbered(labels).grouped(groups).split(0.2)
    assert not set(groups[members(rest)]) & set(groups[members(part)])
    shares = np.bincount(part.labels) / np.bincount(labels)  # type: ignore[arg-type]
    np.testing.assert_allclose(shares, 0.2, atol=0.03)


def test_groups_stay_with_their_samples_in_subsets_and_later_splits() -> None:
    groups = np.repeat(np.arange(30), 4)
    data = numbered(np.arange(120) % 2).grouped(groups).subset(range(119, 19, -1))
    rest, part = data.split(0.4)
    first, second = rest.split(0.5)
    sides = [set(groups[members(side)]) for side in (first, second, part)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 25


def test_groups_decide_the_fingerprint_and_where_there_are_none_it_is_as_ever() -> None:
    data, texts = numbered([0, 1] * 4), list("aabbccdd")
    prints = [data, data.grouped(texts), data.grouped(list("aabbccda"))]
    assert len({each.fingerprint() for each in prints}) == 3
    assert data.grouped(texts).fingerprint() == data.grouped([0, 0, 1, 1, 2, 2, 3, 3]).fingerprint()
    assert data.grouped(texts).ids([3]) == data.ids([3])
    without = numbered([0, 1, 2]).subset([2, 0])
    assert without.fingerprint() == "1f6dbe2296dacda9364ae19e866766b5"


def test_groups_can_be_texts() -> None:
    groups = ["anna", "anna", "ben", "ben", "carl", "carl"]
    rest, part = numbered([0, 1] * 3).grouped(groups).split(0.3)
    assert (len(rest), len(part)) == (4, 2)


@pytest.mark.parametrize(
    ("labels", "share", "groups", "words"),
    [
        ([0, 1, 0, 1], 0.0, None, "a share between 0 and 1, got 0.0"),
        ([0, 1, 0, 1], 1.0, None, "a share between 0 and 1, got 1.0"),
        ([0, 1, 0, 1], float("nan"), None, "a share between 0 and 1, got nan"),
        ([1], 0.5, None, "a split needs at least 2 samples, and there is 1"),
        ([0, 0, 1], 0.5, None, "class '1' has 1 sample, and a split needs at least 2"),
        ([0, 1] * 2, 0.5, [1, 2], "groups must be 4 integers or texts, one for each sample"),
        ([0, 1] * 2, 0.5, [0.5] * 4, "got float64[4]"),
        ([0, 0, 1, 1], 0.5, list("abcc"), "class '1' would be missing on one side of the split"),
        ([0, 0, 1, 1], 0.5, list("abcc"), "its samples are in one group"),
        ([0, 1, 0, 1], 0.5, list("aaaa"), "class '0' would be missing"),
        ([0, 1, 1, 2, 2, 0], 0.5, list("aabbcc"), "are in 2 groups that go together"),
    ],
)
def test_splits_that_cannot_be(
    labels: list[int], share: float, groups: list[str] | None, words: str
) -> None:
    with pytest.raises(InputError) as error:
        data = numbered(labels)
        (data if groups is None else data.grouped(groups)).split(share)
    assert words in str(error.value)
