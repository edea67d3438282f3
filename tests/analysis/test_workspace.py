"""One process at a time in a folder; workers that hang; what workers keep."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import small_task

import pockengine as pe
from pockengine.analysis import trials
from pockengine.analysis.splits import Sizes
from pockengine.analysis.worker import Worker
from pockengine.analysis.workspace import workspace
from pockengine.data.dataset import as_dataset
from pockengine.errors import AnalysisError

SETS = [as_dataset(small_task.samples())]
SIZES = Sizes(100, 50)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with workspace(tmp_path, SETS, (0,), SIZES) as place:
        assert place.sizes == SIZES
        with pytest.raises(AnalysisError, match=r"is at work in .*; wait until it ends, or choose"):
            pe.analyze(small_task.graph(), SETS[0], folder=tmp_path)
    with workspace(tmp_path, SETS, (0,), SIZES):
        pass


def test_without_a_folder_there_is_one_until_the_end() -> None:
    with workspace(None, SETS, (0,), SIZES) as place:
        assert (place.folder / "splits" / "0.npz").exists()
    assert not place.folder.exists()


def test_a_worker_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(trials, "sys", SimpleNamespace(executable=str(hanging)))
    monkeypatch.setattr(trials, "LEAST_PATIENCE", 1.0)
    with pytest.raises(AnalysisError, match="gave no answer for 1 s; see that the machine"):
        pe.analyze(small_task.graph(), SETS[0], workers=2)


@pytest.mark.filterwarnings("ignore:no contribution can be told from zero")
def test_all_programs_of_a_worker_keep_features_within_one_bound(tmp_path: Path) -> None:
    pe.analyze(small_task.graph(), SETS[0], lr=0.2, fast=True, folder=tmp_path)
    worker = Worker(tmp_path, features=50_000)
    for path in sorted((tmp_path / "programs").iterdir()):
        task = {"program": path.stem, "gates": {}, "seed": 0}
        worker.run({**task, "recipe": {"lr": 0.1, "epochs": 1}})
    assert 0 < worker.features.nbytes <= worker.features.limit
