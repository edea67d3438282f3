"""Data sets of arrays, `.npz` files, labels in all their forms, and `as_dataset`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pockengine as pe
from pockengine.data.arrays import load_npz
from pockengine.data.dataset import as_dataset
from pockengine.errors import InputError


def pixels(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 4, 4), np.float32)


def test_a_batch_has_the_samples_asked_for_in_their_order() -> None:
    x = pixels()
    data = pe.ArrayDataset(x, [0, 1, 0, 1, 2, 2])
    batch = data.batch([4, 0])
    np.testing.assert_array_equal(batch.x, x[[4, 0]])
    assert batch.y is not None
    assert batch.y.dtype == np.int64
    assert batch.y.tolist() == [2, 0]
    assert data.classes == ("0", "1", "2")


def test_several_inputs_come_as_a_tuple_or_by_name() -> None:
    a, b = np.arange(6.0).reshape(3, 2), np.arange(3)
    first, second = pe.ArrayDataset((a, b)).batch([2, 1]).x
    np.testing.assert_array_equal(first, a[[2, 1]])
    np.testing.assert_array_equal(second, b[[2, 1]])
    named = pe.ArrayDataset({"a": a, "b": b}).batch([1]).x
    assert isinstance(named, dict)
    np.testing.assert_array_equal(named["a"], a[[1]])


def test_samples_without_labels() -> None:
    data = pe.ArrayDataset(pixels())
    assert data.labels is None
    assert data.batch([0]).y is None
    rest, part = data.split(0.5)
    assert (len(rest), len(part)) == (3, 3)


def test_a_subset_keeps_names_labels_and_classes() -> None:
    data = pe.ArrayDataset(pixels(), list("abcabc"))
    few = data.subset([5, 3, 1]).subset([2, 0])
    assert few.ids([0, 1]) == data.ids([1, 5])
    assert few.classes == ("a", "b", "c")
    np.testing.assert_array_equal(few.batch([0]).x, data.batch([1]).x)
    assert few.batch([0, 1]).y.tolist() == [1, 2]  # type: ignore[union-attr]


def test_names_of_samples_differ_between_data_sets() -> None:
    a, b = pixels(), pixels()
    b[3, 0, 0, 0] += 1
    one, other, same = (pe.ArrayDataset(x) for x in (a, b, pixels()))
    assert one.ids([0]) != other.ids([0])
    assert one.ids([0]) == same.ids([0])
    assert len(set(one.ids(range(6)))) == 6


def test_every_byte_decides_the_fingerprint() -> None:
    x, y = pixels(), np.array([0, 1, 2, 0, 1, 2])
    base = pe.ArrayDataset(x, y).fingerprint()
    assert pe.ArrayDataset(pixels(), y.copy()).fingerprint() == base
    for place in ((0, 0, 0, 0), (5, 0, 3, 3)):
        other = pixels()
        other[place] = np.nextafter(other[place], 2, dtype=np.float32)
        assert pe.ArrayDataset(other, y).fingerprint() != base
    others = [
        pe.ArrayDataset(x, [0, 1, 2, 0, 2, 1]),
        pe.ArrayDataset(x, y, ["a", "b", "c"]),
        pe.ArrayDataset(x.reshape(6, 16), y),
        pe.ArrayDataset(x),
        pe.ArrayDataset(x, y).subset([0, 1, 2, 3, 4]),
        pe.ArrayDataset(x, y).subset([0, 1, 2, 3, 5, 4]),
        pe.ArrayDataset({"x": x}, y),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 8


@pytest.mark.parametrize(
    ("given", "labels", "classes"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (np.array(["10", "9", "10"]), [1, 0, 1], ("9", "10")),
        (np.array(["b", "a", "b"], object), [1, 0, 1], ("a", "b")),
        ([2, 0, 2], [2, 0, 2], ("0", "1", "2")),
        (np.array([[1], [0], [1]], np.uint8), [1, 0, 1], ("0", "1")),
        ([True, False, True], [1, 0, 1], ("0", "1")),
        ([0.5, 0.25, 1.0], [0.5, 0.25, 1.0], ()),
        ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]], ()),
    ],
)
def test_labels_of_every_kind(given: Any, labels: list[Any], classes: tuple[str, ...]) -> None:
    data = pe.ArrayDataset(np.zeros((3, 2)), given)
    assert data.labels is not None
    assert data.labels.tolist() == labels
    assert data.classes == classes
    if classes:
        assert data.labels.dtype == np.int64


def test_classes_can_be_given_so_that_two_sets_agree() -> None:
    data = pe.ArrayDataset(np.zeros((2, 2)), ["b", "b"], classes=["c", "b"])
    assert data.labels is not None
    assert data.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([[1.0, 2.0], [3.0]], [0, 1], "samples differ: 0 has shape (2,), 1 has shape (1,)"),
        (np.array([[1.0, 2.0], [3.0]], object), [0, 1], "1 has shape (1,)"),
        (5.0, [0], "x must be numbers with the samples as first axis, got float64[]"),
        (["a", "b"], [0, 1], "x must be numbers"),
        ((), [0, 1], "x has no arrays"),
        (np.zeros((0, 3)), None, "at least one sample"),
        (np.zeros((3, 2)), [0, 1], "different numbers of samples: x 3, labels 2"),
        ((np.zeros(3), np.zeros(2)), None, "different numbers of samples: x[0] 3, x[1] 2"),
        (np.zeros(2), ["a", 1], "all of one kind; sample 1 has a int"),
        (np.zeros(2), [None, None], "labels must be numbers or texts, got NoneType"),
        (np.zeros(2), ["a", None], "labels must be numbers or texts, got NoneType, str"),
        (np.zeros(2), [b"a", b"b"], "labels are class numbers (integers), class names"),
        (np.zeros(2), [1j, 2j], "got complex128[2]"),
        (np.zeros(2), [[1], [2, 3]], "labels cannot be read as an array, because samples differ"),
        (np.zeros(2), [0, -1], "class numbers go from 0 upwards, and sample 1 has -1"),
        (np.zeros(2), [0.0, np.nan], "the target of sample 1 has the value nan"),
        (np.zeros((1, 2)), [["a", "b"]], "class names are one text a sample, got shape [1, 2]"),
    ],
)
def test_arrays_that_do_not_fit(x: Any, y: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        pe.ArrayDataset(x, y)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("y", "classes", "words"),
    [
        (["a", "z"], ["a", "b"], "sample 1 is of class 'z'; the classes are 'a', 'b'"),
        ([0, 2], ["a", "b"], "class numbers go from 0 to 1, and sample 1 has 2"),
        (["a", "b"], ["a", "b", "a"], "the classes 'a' are named more than once"),
    ],
)
def test_labels_beside_the_classes(y: Any, classes: list[str], words: str) -> None:
    with pytest.raises(InputError) as error:
        pe.ArrayDataset(np.zeros(2), y, classes)
    assert words in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_warned_of(value: float) -> None:
    x = pixels()
    x[2, 0, 1, 1] = value
    with pytest.warns(UserWarning, match=r"x is NaN or infinite in 1 of 6 samples, the first is 2"):
        pe.ArrayDataset(x)


def test_one_class_only_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="all 3 samples are of one class"):
        pe.ArrayDataset(np.zeros((3, 2)), ["a", "a", "a"])


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([6], "samples 0 to 5, and no sample 6"),
        ([0, -1], "no sample -1"),
        ([], "at least one index of a sample, got float64[0]"),
        ([0.5], "got float64[1]"),
        ([[0]], "got int64[1, 1]"),
    ],
)
def test_indices_of_no_sample(indices: Any, words: str) -> None:
    data = pe.ArrayDataset(pixels())
    for call in (data.batch, data.ids, data.subset):
        with pytest.raises(InputError) as error:
            call(indices)
        assert words in str(error.value)


# ---- .npz ----------------------------------------------------------------------------------------


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("x", "y"), "train"),
        (("images", "labels"), "train"),
        (("x_train", "y_train"), "train"),
        (("train_images", "train_labels"), "train"),
        (("x_test", "y_test"), "test"),
        (("val_x", "val_y"), "val"),
    ],
)
def test_npz_by_the_usual_names(tmp_path: Path, names: tuple[str, str], part: str) -> None:
    path = saved(tmp_path, **{names[0]: pixels(4), names[1]: [0, 1, 1, 0]})
    data = as_dataset(path, part=part)
    np.testing.assert_array_equal(data.batch(range(4)).x, pixels(4))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 0]


def test_npz_with_classes(tmp_path: Path) -> None:
    path = saved(tmp_path, x=pixels(2), y=[0, 1], classes=["shirt", "shoe"])
    assert load_npz(path).classes == ("shirt", "shoe")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": [1], "b": [2]}, "has the arrays a, b; expected x, y; images, labels; x_train"),
        ({"x": [[1.0]], "y": np.array([{}])}, "Object arrays cannot be loaded"),
        ({"x": [[1.0]], "y": [0, 1]}, "data.npz: arrays have different numbers of samples"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError) as error:
        load_npz(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_npz_never_unpickles(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (touched,))

    path = saved(tmp_path, x=np.array([Trap()]), y=[0])
    with pytest.raises(InputError, match=r"cannot be read as a .npz"):
        load_npz(path)
    assert not touched.exists()


@pytest.mark.parametrize("kept", [0, 10, 100, -30])
def test_npz_cut_short(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path, x=pixels(), y=[0, 1] * 3)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cannot be read as a .npz of arrays"):
        load_npz(path)


def test_npz_with_a_byte_changed(tmp_path: Path) -> None:
    path = saved(tmp_path, x=pixels(), y=[0, 1] * 3)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="CRC"):
        load_npz(path)


def test_npz_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((1000, 1000)), y=np.arange(1000) % 2)
    monkeypatch.setattr("pockengine.data.arrays.MOST_UNPACKED", 10**6)
    with pytest.raises(InputError, match=r"unpacks to 0.0 GiB, over the 0 GiB that are read"):
        load_npz(tmp_path / "data.npz")


# ---- as_dataset ----------------------------------------------------------------------------------


def test_as_dataset_takes_what_there_is(tmp_path: Path) -> None:
    data = pe.ArrayDataset(pixels(), [0, 1] * 3)
    assert as_dataset(data) is data
    assert as_dataset((pixels(), [0, 1] * 3)).fingerprint() == data.fingerprint()
    assert as_dataset((pixels(), None)).labels is None


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (5, {}, "expected a Dataset, a tuple of samples and labels, or a path, got int"),
        (([1], [2], [3]), {}, "got a tuple of 3"),
        (pe.ArrayDataset([1, 2]), {"size": 3}, "got ArrayDataset with the options size"),
        ("nowhere", {}, "nowhere does not exist"),
        ("words.csv", {"length": 8}, "words.csv is a table of texts; give tokenizer= too"),
        ("words.jsonl", {}, "is a table of texts; give tokenizer= and length= too"),
        (".", {}, ". is a folder of images; give size= too"),
        ("data.npz", {}, "data.npz cannot be read as a .npz of arrays"),
    ],
)
def test_as_dataset_refuses(
    given: Any,
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        as_dataset(given, **options)
    assert words in str(error.value)


def test_as_dataset_refuses_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"data.pkl is no folder of images, .npz, .csv or .jsonl"):
        as_dataset(tmp_path / "data.pkl")
