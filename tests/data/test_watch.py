"""The converted recordings hold what the pickled file held."""

from pathlib import Path

import numpy as np
import pytest

from pockengine.data import watch


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file of the same form as the downloaded one."""
    path = tmp_path / "watch.npy"
    content = {
        "X": [np.full((5, 6), 1.5), np.zeros((3, 6))],
        "y": np.array([1, 0]),
        "subject": np.array([4, 9]),
        "y_labels": ["PEN", "ABD"],
    }
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    monkeypatch.setattr(watch, "fetch", lambda name: path)
    return path


def test_series_keep_their_lengths_labels_and_people(pickled: Path) -> None:
    recordings = watch.load_recordings()
    assert [s.shape for s in recordings.series] == [(5, 6), (3, 6)]
    assert {s.dtype for s in recordings.series} == {np.dtype(np.float32)}
    assert recordings.series[0][0, 0] == 1.5
    assert recordings.exercises == ("PEN", "ABD")
    np.testing.assert_array_equal(recordings.exercise, [1, 0])
    np.testing.assert_array_equal(recordings.person, [4, 9])


def test_the_pickle_is_read_only_once(pickled: Path) -> None:
    watch.load_recordings()
    pickled.write_bytes(b"gone")
    assert len(watch.load_recordings().series) == 2
