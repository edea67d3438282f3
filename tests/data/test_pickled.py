"""Reading pickled arrays: what must be read is, and nothing can be run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pockengine.data.pickled import load_pickle, load_pickled_npy
from pockengine.errors import AssetError


def save_object(path: Path, content: Any) -> None:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


class Malicious:
    """Unpickling this would create a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_arrays_lists_and_text_are_read(tmp_path: Path) -> None:
    path = tmp_path / "good.npy"
    series = [np.arange(6.0).reshape(3, 2), np.ones((1, 2))]
    save_object(path, {"X": series, "y": np.array([1, 2]), "labels": ["a", "b"]})
    came = load_pickled_npy(path)
    assert came["labels"] == ["a", "b"]
    np.testing.assert_array_equal(came["y"], [1, 2])
    for expected, array in zip(series, came["X"], strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    path, folder = tmp_path / "bad.npy", tmp_path / "made"
    save_object(path, {"X": Malicious(folder)})
    with pytest.raises(AssetError, match=r"asks to load posix\.mkdir.*Do not use this file"):
        load_pickled_npy(path)
    assert not folder.exists()


def test_only_the_latin1_codec_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "bad.npy"
    save_object(path, 0)
    header = path.read_bytes()[:128]
    path.write_bytes(header + b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.")
    with pytest.raises(AssetError, match="asks for the codec 'zip'; only latin1"):
        load_pickled_npy(path)


@pytest.mark.parametrize("size", [0, 5, 100, 140, 200])
def test_a_truncated_file_is_an_error_in_words(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.npy"
    save_object(path, {"X": [np.ones(50)]})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(AssetError, match=r"cannot be read .*Delete it"):
        load_pickled_npy(path)


def test_plain_arrays_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.npy"
    np.save(path, np.ones(3))
    with pytest.raises(AssetError, match="one pickled object"):
        load_pickled_npy(path)
    path.write_bytes(pickle.dumps({"X": 1}))
    with pytest.raises(AssetError, match="one pickled object"):
        load_pickled_npy(path)


def test_a_pickle_of_arrays_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv": (np.ones((2, 2)), np.zeros(2))}))
    kernel, bias = load_pickle(path)["conv"]
    np.testing.assert_array_equal(kernel, np.ones((2, 2)))
    np.testing.assert_array_equal(bias, np.zeros(2))


def test_a_pickle_runs_nothing_and_must_be_whole(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(Malicious(folder)))
    with pytest.raises(AssetError, match=r"asks to load posix\.mkdir"):
        load_pickle(path)
    assert not folder.exists()
    path.write_bytes(pickle.dumps(np.ones(9))[:-20])
    with pytest.raises(AssetError, match=r"weights\.pkl should be a pickle, but cannot be read"):
        load_pickle(path)
