"""A process that runs trials: `python -m pockengine.analysis.worker FOLDER FEATURES`.

The folder holds the samples, the splits and the programs; FEATURES is how many bytes of frozen
prefixes' features are kept, for all programs together. Each line of the standard input is a
trial as JSON, each line of the standard output its result. Nothing is unpickled, and the caller's
script is not imported again, as it would be by a process pool.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pockengine.analysis.samples import read_samples
from pockengine.data.dataset import ArrayDataset, Dataset
from pockengine.errors import NonFiniteLossError, PockError
from pockengine.runtime.artifact import load_program
from pockengine.runtime.features import FeatureCache
from pockengine.runtime.session import Session
from pockengine.runtime.trainer import Trainer


class Worker:
    """Runs trials in the folder of an analysis. Sessions stay open from trial to trial."""

    def __init__(self, folder: Path, features: int) -> None:
        self._folder, self.features = folder, FeatureCache(features)
        self._samples: ArrayDataset = read_samples(folder / "samples")
        self._session = functools.cache(self._opened)

    def run(self, trial: dict[str, Any]) -> dict[str, Any]:
        """What training with these gates brings: the metrics of the validation samples.

        There are none where it diverges, so that a loss is not finite.
        """
        started = time.perf_counter()
        session = self._session(trial["program"])
        train, validation = self._split(trial["seed"])
        session.reset()
        session.set_gates(_masks(session, trial["gates"]))
        recipe = trial["recipe"]
        trainer = Trainer(session, lr=recipe["lr"], schedule="cosine", seed=trial["seed"])
        metrics: dict[str, float] = {}
        try:
            trainer.fit(train, epochs=recipe["epochs"], keep_best=False)
            metrics = trainer.evaluate(validation)
        except NonFiniteLossError:
            pass
        return {
            "metrics": metrics,
            "diverged": not metrics,
            "seconds": time.perf_counter() - started,
        }

    def _opened(self, name: str) -> Session:
        program = load_program(self._folder / "programs" / f"{name}.pock")
        return Session(program, cache=self.features if program.signature.prefix else None)

    def _split(self, seed: int) -> tuple[Dataset, Dataset]:
        with np.load(self._folder / "splits" / f"{seed}.npz") as file:
            return self._samples.subset(file["train"]), self._samples.subset(file["validation"])


def _masks(session: Session, gates: dict[str, Any]) -> dict[str, Any]:
    """A mask for each gate: JSON's list of channels as one truth value a channel."""
    found: dict[str, Any] = {}
    for name, channels in gates.items():
        if channels is True:
            found[name] = True
            continue
        mask = np.zeros(channels["of"], np.bool_)
        mask[channels["open"]] = True
        found[name] = mask
    return found


def serve(worker: Worker, source: TextIO, answers: TextIO) -> None:
    """Answers trials until there are no more."""
    for line in source:
        try:
            answer = worker.run(json.loads(line))
        except PockError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever else is printed goes to the standard error
        serve(Worker(Path(sys.argv[1]), int(sys.argv[2])), sys.stdin, answers)
