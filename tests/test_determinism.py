"""One program, one seed, one number of threads: the same bits, in every run and every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ConvNet, Noisy, image_graph, image_program, images, seeded

import pockengine as pe
from pockengine.program import CompiledProgram

HERE = Path(__file__).parent

RUN = """
import hashlib, sys
import numpy as np
from pockengine.runtime.session import Session

with np.load(sys.argv[2]) as file:
    x, y = file["x"], file["y"]
with Session.load(sys.argv[1]) as session:
    losses = [session.step(x, y, 0.05) for _ in range(5)]
    state = session.state_dict()
    bits = b"".join(state[n].tobytes() for n in sorted(state))
print(hashlib.sha256(np.array(losses).tobytes() + bits).hexdigest())
"""

COMPILE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from small_models import ConvNet, Noisy, image_graph, seeded
import torch
import pockengine as pe

for training in (False, True):
    for make, example in ((ConvNet, (3, 12, 12)), (Noisy, (64,))):
        graph = pe.import_torch(seeded(make, training=training), torch.zeros(2, *example))
        scheme = pe.UpdateScheme.full(graph)
        target = pe.Target.host(threads=2)
        program = pe.compile(graph, optimizer="adam", scheme=scheme, batch=4, target=target)
        print(hashlib.sha256(program.code.source.encode()).hexdigest())
        print(hashlib.sha256(program.code.library).hexdigest())
"""


def python(code: str, *arguments: object, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    ).stdout


def steps(session: pe.Session, x: np.ndarray, y: np.ndarray) -> str:
    losses = [session.step(x, y, 0.05) for _ in range(5)]
    state = session.state_dict()
    bits = b"".join(state[n].tobytes() for n in sorted(state))
    return hashlib.sha256(np.array(losses).tobytes() + bits).hexdigest()


def noisy_program(threads: int) -> CompiledProgram:
    graph = pe.import_torch(seeded(Noisy, training=True), torch.zeros(2, 64))
    target = pe.Target.host(threads=threads)
    return pe.compile(graph, optimizer=pe.SGD(momentum=0.9), batch=64, target=target)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_in_every_run_and_process(threads: int, tmp_path: Path) -> None:
    """With dropout, and wide enough that threads share the work."""
    program = noisy_program(threads)
    assert program.code.source.count("pk_parallel") > 0
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 64)).astype(np.float32), rng.integers(0, 5, 64)
    program.save(tmp_path / "program.pock")
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    found = set()
    for _ in range(3):
        with pe.Session(program) as session:
            found.add(steps(session, x, y))
    files = tmp_path / "program.pock", tmp_path / "batch.npz"
    found |= {python(RUN, *files).strip() for _ in range(2)}
    assert len(found) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_statistics_give_the_same_bits(threads: int) -> None:
    model = seeded(ConvNet, training=True)
    program = image_program(model, batch=64, target=pe.Target.host(threads=threads))
    found = set()
    for _ in range(3):
        with pe.Session(program) as session:
            found.add(steps(session, *images(64)))
    assert len(found) == 1


@pytest.mark.parametrize("training", [False, True])
def test_one_thread_and_two_give_the_same_bits(training: bool) -> None:
    """Sums that ride in a step have parts of their own, whatever thread takes them."""
    model, found = seeded(ConvNet, training=training), set()
    for threads in (1, 2):
        program = image_program(model, batch=64, target=pe.Target.host(threads=threads))
        assert "pk_add_parts" in program.code.source
        with pe.Session(program) as session:
            found.add(steps(session, *images(64)))
    assert len(found) == 1


def test_dropout_differs_from_step_to_step_and_is_off_outside_of_training() -> None:
    x, y = np.ones((64, 64), np.float32), np.zeros(64, np.int64)
    with pe.Session(noisy_program(1)) as session:
        assert session.step(x, y, 0.0) != session.step(x, y, 0.0)
        assert session.evaluate(x, y) == session.evaluate(x, y)


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = image_graph(seeded(ConvNet, training=True))
    target = pe.Target.host(threads=2)
    files = []
    for name in ("first.pock", "second.pock"):
        pe.compile(graph, batch=4, target=target).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.slow
def test_compiling_in_other_processes_gives_the_same_bytes() -> None:
    """Whatever the seed of Python's hashes, by which sets are ordered."""
    printed = {python(COMPILE, HERE / "models", PYTHONHASHSEED=seed) for seed in ("0", "1", "2")}
    assert len(printed) == 1 and len(printed.pop().split()) == 8
