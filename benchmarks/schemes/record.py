"""The figures as they come in: a JSON file that is written anew after each of them, so that a run
which was stopped goes on where it was; and the trainings that complete them.

    {"tasks": {"wrist/1": {"recipe": ..., "schemes": {"full": {"runs": [...]}}}}}
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pockengine as pe
from benchmarks.schemes.training import Run, missing_runs, opened, trained
from benchmarks.tasks import Task
from pockengine.errors import InputError
from pockengine.files import write_atomically

Figures = dict[str, Any]


class Record:
    """The figures of all tasks, in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.figures: Figures = json.loads(path.read_text()) if path.exists() else {"tasks": {}}

    def task(self, task: Task) -> Figures:
        """What is known of a task; nothing where its recipe or its data are not those of before."""
        known: Figures = self.figures["tasks"].get(task.name, {})
        about = described(task)
        if any(known.get(key) != value for key, value in about.items()):
            known = {**about, "schemes": {}}
            self.figures["tasks"][task.name] = known
        return known

    def train(self, task: Task, row: Figures, seeds: Sequence[int]) -> None:
        """Does the trainings that a row lacks. Its one scheme takes all seeds, or its n-th scheme
        the n-th seed. Raises InputError for fewer schemes than seeds.
        """
        shares = row["shares"]
        if 1 < len(shares) < len(seeds):
            raise InputError(
                f"the record has schemes for {len(shares)} seeds, not {len(seeds)}; ask for "
                "fewer seeds, or remove the row to choose its schemes anew"
            )
        of_seeds = [seeds] if len(shares) == 1 else [[seed] for seed in seeds]
        for scheme, own in zip(shares, of_seeds, strict=False):  # of more schemes the first
            if _missing(row, seeds, own):  # else nothing needs to be compiled
                with opened(task, pe.UpdateScheme(scheme), threads=1, cached=True) as session:
                    while missing := _missing(row, seeds, own):
                        for factor, seed in missing:
                            self.add_run(row, trained(session, task, factor, seed))

    def add_run(self, row: Figures, run: Run) -> None:
        """One more training with the scheme of a row."""
        with self._lock:
            row.setdefault("runs", []).append(run.to_json())
        self.save()

    def save(self) -> None:
        with self._lock:
            text = json.dumps(self.figures, indent=1) + "\n"
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, text.encode())


def _missing(row: Figures, seeds: Sequence[int], own: Sequence[int]) -> list[tuple[float, int]]:
    """What is to be trained next with some of the seeds."""
    return [run for run in missing_runs(runs_of(row), seeds) if run[1] in own]


def described(task: Task) -> Figures:
    """What decides the accuracies beside the scheme."""
    recipe = f"{task.optimizer}, rate {task.lr:g}, batch {task.batch}, {task.epochs} epochs"
    sizes = [len(data) for data in (task.train, task.validation, task.test)]
    return {"family": task.family, "recipe": recipe, "samples": sizes}


def runs_of(row: Figures) -> list[Run]:
    return [Run(**run) for run in row.get("runs", ())]


def tasks_of(figures: Figures, family: str) -> Sequence[str]:
    return [name for name, found in figures["tasks"].items() if found["family"] == family]
