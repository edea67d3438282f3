"""Starts the contenders of a workload, lets them take turns, and watches their memory."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from benchmarks.contenders import BACKENDS, CONTENDERS, OURS
from benchmarks.workloads import SCHEMES, WORKLOADS

ROOT = Path(__file__).parents[1]
PAUSE = 0.02  # between turns, in which the threads of the one before go to sleep
SAMPLE = 0.001
LINUX = sys.platform == "linux"  # has /proc
HOPELESS, SURE_AFTER = 1.5, 2  # a peer this much slower than the best sits out after so many rounds
# Settings of a user's shell that would slow one side, or let waiting threads burn the processors.
FOREIGN = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "TF_", "XLA_", "KERAS_", "JAX_")


class ContenderFailed(Exception):
    """A contender stopped. The message ends with the last lines that it printed."""


def environment(contender: str, threads: int) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    count = str(threads)
    clean |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TF_CPP_MIN_LOG_LEVEL": "3"}
    clean |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    module = CONTENDERS[contender][0]
    return clean | ({"KERAS_BACKEND": BACKENDS[module]} if module in BACKENDS else {})


@dataclass
class Worker:
    """One contender under one scheme, and what was found out about it."""

    contender: str
    scheme: str
    process: subprocess.Popen[str]
    errors: Any
    missing: str = ""
    loss: float = 0.0
    facts: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    idle: float = 0.0  # processor seconds while others had their turn

    def answer(self, meanwhile: Callable[[], None] | None = None) -> dict[str, Any]:
        """The next line that the worker prints; calls `meanwhile` every millisecond until then."""
        assert self.process.stdout is not None
        while meanwhile and not select.select([self.process.stdout], [], [], SAMPLE)[0]:
            meanwhile()
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = "\n".join(self.errors.read().strip().splitlines()[-12:])
            raise ContenderFailed(f"{self.contender}, {self.scheme}, stopped:\n{last}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, words: str, meanwhile: Callable[[], None] | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.answer(meanwhile)

    def memory_now(self) -> dict[str, int]:
        """Bytes in memory: `resident` all, `own` without mapped files, as libraries are."""
        fields = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in fields)
        bytes_of = {k: int(sizes[k].split()[0]) * 1024 for k in ("VmRSS", "RssFile", "VmSwap")}
        resident = bytes_of["VmRSS"] + bytes_of["VmSwap"]
        return {"resident": resident, "own": resident - bytes_of["RssFile"]}

    def processor_seconds(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def begin(self, seconds: float) -> None:
        """First steps, then a turn that is watched: the memory that training takes."""
        before = self.memory_now() if LINUX else {}
        found = self.ask("begin")
        self.loss = found.pop("loss")
        self.facts = found
        peak = dict.fromkeys(before, 0)

        def watch() -> None:
            for kind, size in self.memory_now().items() if LINUX else ():
                peak[kind] = max(peak[kind], size)

        watch()
        self.ask(f"turn {seconds}", watch)
        watch()
        had = found.get("weights", 0)
        self.memory = {kind: peak[kind] - before[kind] - had for kind in before}

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def prepare(workload: str, folder: Path, threads: int) -> None:
    command = [sys.executable, "-m", "benchmarks.prepare", workload, str(folder), str(threads)]
    subprocess.run(command, cwd=ROOT, check=True)


def start(contender: str, workload: str, scheme: str, folder: Path, threads: int) -> Worker:
    arguments = [contender, workload, scheme, str(folder), str(threads)]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process has stopped
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=ROOT,
        env=environment(contender, threads),
    )
    return Worker(contender, scheme, process, errors)


def run(workload: str, peers: list[str], threads: int, rounds: int, seconds: float) -> list[Worker]:
    """Prepares a workload and measures every contender under both schemes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(workload, folder, threads)
        workers = [
            start(contender, workload, scheme, folder, threads)
            for scheme in SCHEMES
            for contender in [OURS, *peers]
            if WORKLOADS[workload].image or CONTENDERS[contender][1] != "channels_last"
        ]
        try:
            with ThreadPool(threads) as pool:
                pool.map(lambda worker: _begin(worker, seconds), workers, chunksize=1)
            check_same_start(workers)
            _take_turns([w for w in workers if not w.missing], rounds, seconds)
        finally:
            for worker in workers:
                worker.stop()
    return workers


def _begin(worker: Worker, seconds: float) -> None:
    try:
        worker.missing = worker.answer().get("missing", "")
        if not worker.missing:
            worker.begin(seconds)
    except ContenderFailed as error:
        worker.missing = str(error)
    if worker.contender == OURS and worker.missing:
        raise ContenderFailed(worker.missing)


def check_same_start(workers: list[Worker]) -> None:
    """Ours and PyTorch compute the same first loss, or this is no comparison."""
    for ours in (w for w in workers if w.contender == OURS):
        for peer in workers:
            comparable = peer.scheme == ours.scheme and CONTENDERS[peer.contender][0] == "pytorch"
            if comparable and not peer.missing and abs(peer.loss / ours.loss - 1) > 1e-3:
                raise SystemExit(
                    f"the first losses differ: {ours.loss} with pockengine, "
                    f"{peer.loss} with {peer.contender} ({ours.scheme})"
                )


def _take_turns(workers: list[Worker], rounds: int, seconds: float) -> None:
    for number in range(rounds):
        for worker in workers:
            if number >= SURE_AFTER and _hopeless(worker, workers):
                continue
            time.sleep(PAUSE)
            others = [w for w in workers if w is not worker]
            before = [w.processor_seconds() for w in others if LINUX]
            worker.seconds += worker.ask(f"turn {seconds}")["seconds"]
            for other, spent in zip(others, before, strict=LINUX):
                other.idle += other.processor_seconds() - spent


def _hopeless(worker: Worker, workers: list[Worker]) -> bool:
    peers = [w for w in workers if w.scheme == worker.scheme and w.contender != OURS]
    return worker in peers and min(worker.seconds) > HOPELESS * min(min(w.seconds) for w in peers)
