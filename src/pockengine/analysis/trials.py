"""Runs trials: trains from the common start with some gates open, and measures what it brought.

    lab = Lab(job, folder, recipe, journal)
    lab.add_program(name, scheme)            everything that some trials may open
    lab.run([Trial(shares, seed), ...])      in processes; kept in the journal as they come

Hundreds of schemes share a few compiled programs: a gate for each trained tensor decides, channel
by channel, what a trial updates. A closed gate is as good as a frozen tensor, so a trial equals
the program that would be compiled for its scheme.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pockengine.analysis.journal import Journal, digest
from pockengine.compiler import build, plan_job
from pockengine.errors import AnalysisError
from pockengine.files import parse_bytes
from pockengine.job import Job
from pockengine.optim import SGD
from pockengine.runtime.gates import PREFIX
from pockengine.scheme import Share, UpdateScheme
from pockengine.target import Target

OPTIMIZER = SGD(momentum=0.9)  # where the user names none
LAST_LINES = 20  # of a worker's complaints, that an error shows
FEATURES = "2GB"  # of frozen prefixes, that all workers keep together
PATIENCE = 20  # times the slowest trial so far, after which a worker is taken to hang
LEAST_PATIENCE = 3600.0  # seconds


@dataclass(frozen=True)
class TrialRecipe:
    """The short schedule of every trial: a cosine from `lr` to 0 over whole epochs."""

    lr: float
    epochs: int


@dataclass(frozen=True)
class Trial:
    """What is trained, beside nothing else, with which order of samples and which split."""

    shares: Mapping[str, Share]
    seed: int

    @property
    def facts(self) -> dict[str, Any]:
        """As plain data, tensors by name."""
        return {"shares": dict(sorted(self.shares.items())), "seed": self.seed}

    @property
    def key(self) -> str:
        """The same for the same trial, in another process too."""
        return digest(self.facts)


@dataclass(frozen=True)
class Score:
    """Metrics of the validation samples after a trial; none where it `diverged`."""

    metrics: Mapping[str, float]
    seconds: float
    diverged: bool = False


@dataclass(frozen=True)
class Progress:
    """How far an analysis is: the part it is in, trials done and expected in all, time left."""

    stage: str
    done: int
    expected: int
    seconds_left: float


class Lab:
    """Programs with gates, and the processes that run trials with them. Use as context manager."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        recipe: TrialRecipe,
        journal: Journal,
        workers: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """`job` says all but the scheme; `folder` has the samples and the splits.

        By default there is a worker for each processor.
        """
        self._job, self._folder, self._recipe = job, folder, recipe
        self._journal, self._progress = journal, progress
        self._programs: dict[str, frozenset[str]] = {}
        self._gated: set[str] = set()  # the loss depends on these
        count = workers or Target.host().threads
        features = parse_bytes(FEATURES) // count
        self._workers = [_Process(folder, features) for _ in range(count)]
        self._idle = list(self._workers)
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self._slowest = 0.0
        self.stage, self.expected, self._done = "", 0, 0

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def add_program(self, name: str, scheme: UpdateScheme) -> None:
        """Compiles a program with a gate for each tensor of a scheme. Later ones are preferred."""
        self.stage = "compiling"
        self._report()
        job = replace(self._job.with_scheme(scheme), gated=True)
        path = self._folder / "programs" / f"{name}.pock"
        path.parent.mkdir(exist_ok=True)
        program = build(plan_job(job))
        program.save(path)
        self._programs[name] = frozenset(scheme.shares)
        leaves = program.signature.leaves
        self._gated |= {n.removeprefix(PREFIX) for n in leaves if n.startswith(PREFIX)}

    def trains(self, name: str) -> bool:
        """Whether some program trains this tensor: not where the loss does not depend on it."""
        return name in self._gated

    def run(self, trials: Sequence[Trial]) -> list[Score]:
        """The scores of some trials, in their order; what the journal has is not run again.

        Raises AnalysisError when a process fails. Interrupted, it keeps what was finished.
        """
        with ThreadPoolExecutor(len(self._workers)) as threads:
            futures = [threads.submit(self._score, trial) for trial in trials]
            try:
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in self._workers:
                    worker.close()
                raise

    def _score(self, trial: Trial) -> Score:
        known = self._journal.get(trial.key)
        if known is None:
            known = self._measured(trial)
        with self._lock:
            self._slowest = max(self._slowest, known["seconds"])
            self._done += 1
            self._report()
        return Score(known["metrics"], known["seconds"], known["diverged"])

    def _measured(self, trial: Trial) -> dict[str, Any]:
        with self._lock:
            worker = self._idle.pop()
        try:
            answer = worker.ask(self._task(trial), self._limit())
        finally:
            with self._lock:
                self._idle.append(worker)
        with self._lock:
            self._seconds.append(answer["seconds"])
            self._journal.put(trial.key, {**trial.facts, **answer})
        return answer

    def _limit(self) -> float:
        """Seconds that a trial may take."""
        with self._lock:
            return max(LEAST_PATIENCE, PATIENCE * self._slowest)

    def _task(self, trial: Trial) -> dict[str, Any]:
        return {
            "program": self._program_for(trial),
            "gates": self._gates(trial),
            "seed": trial.seed,
            "recipe": asdict(self._recipe),
        }

    def _program_for(self, trial: Trial) -> str:
        """The newest program that has all the gates; newer ones go less deep."""
        for name, gates in reversed(self._programs.items()):
            if gates >= set(trial.shares):
                return name
        raise AnalysisError(f"no program trains all of {', '.join(trial.shares)}")

    def _gates(self, trial: Trial) -> dict[str, Any]:
        graph = self._job.graph
        resolved = UpdateScheme(trial.shares).resolve(graph)
        sizes = {name: graph.params[name].shape for name in resolved}
        return {
            name: {"of": sizes[name][c.axis], "open": list(c.indices)} if c else True
            for name, c in resolved.items()
            if self.trains(name)
        }

    def _report(self) -> None:
        if self._progress is None:
            return
        each = sum(self._seconds) / len(self._seconds) if self._seconds else 0.0
        left = max(0, self.expected - self._done) * each / len(self._workers)
        self._progress(Progress(self.stage, self._done, max(self.expected, self._done), left))


class _Process:
    """A worker process, started at the first trial that it is asked for."""

    def __init__(self, folder: Path, features: int) -> None:
        """`features` is how many bytes of features it may keep."""
        self._arguments = [str(folder), str(features)]
        self._process: subprocess.Popen[str] | None = None
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)

    def ask(self, task: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a task. Raises AnalysisError where there is none in `limit` seconds."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        if not wait([process.stdout.fileno()], limit):
            raise AnalysisError(
                f"a worker process gave no answer for {limit:.0f} s; see that the machine has "
                "enough free memory, and start again (a folder keeps what was measured)"
            )
        line = process.stdout.readline()
        if not line:
            raise AnalysisError(f"a worker process ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise AnalysisError(f"a trial failed: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """Ends the process; none is started again."""
        self._complaints.close()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None:
            command = [sys.executable, "-P", "-m", "pockengine.analysis.worker"]
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                text=True,
                start_new_session=True,  # Ctrl-C is for the process that runs the analysis
            )
        return self._process

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().strip().splitlines()
        return "\n".join(lines[-LAST_LINES:]) or "it said nothing (killed, or out of memory)"
