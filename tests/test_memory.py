"""Planned = arena = what a process takes. Full-size networks are in the benchmarks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ConvNet, image_graph, image_program, images, seeded
from torch import nn

import pockengine as pe
from pockengine.compiler import plan_job
from pockengine.job import Job
from pockengine.plan.report import extra_training_bytes


@pytest.mark.parametrize("threads", [1, 4])
def test_planned_is_what_the_session_takes(threads: int, tmp_path: Path) -> None:
    program = image_program(seeded(ConvNet), target=pe.Target.host(threads=threads))
    program.save(tmp_path / "program.pock")
    with pe.Session(program) as session, pe.Session.load(tmp_path / "program.pock") as loaded:
        assert session.arena_bytes == loaded.arena_bytes == program.peak_bytes
        assert program.plan.arena_bytes == program.peak_bytes  # type: ignore[attr-defined]
        assert f"return {program.peak_bytes};" in program.code.source  # type: ignore[attr-defined]


def test_the_memory_table_goes_with_the_program() -> None:
    memory = image_program(seeded(ConvNet)).signature.memory
    assert memory["trained"] > 0 and memory["state"] > 0 and memory["saved"] > 0


def test_a_batch_does_not_reach_beyond_its_arena() -> None:
    """What lies around the arena stays as it was, in every entry point."""
    with pe.Session(image_program(seeded(ConvNet, training=True))) as session:
        size, guard = session.arena_bytes, 4096
        room = np.full(size + 2 * guard, 0xA5, np.uint8)
        start = -room.ctypes.data % 64 + 64
        arena = room[start : start + size]
        arena[:] = session._arena
        session._arena = arena
        session.step(*images(4))
        session.evaluate(*images(7))
        session.predict(images(7)[0])
        around = np.concatenate([room[:start], room[start + size :]])
        assert (around == 0xA5).all()


class Wide(nn.Module):
    """Takes a few megabytes, most of them activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("trained", [("*",), ("layers.4.*", "head.*")])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup")
def test_a_process_grows_by_the_plan(trained: tuple[str, ...], tmp_path: Path) -> None:
    graph = pe.import_torch(seeded(Wide), torch.zeros(2, 3, 96, 96))
    scheme = pe.UpdateScheme.select(graph, dict.fromkeys(trained, True))
    program = pe.compile(graph, scheme=scheme, batch=16, target=pe.Target.host(threads=2))
    program.save(tmp_path / "program.pock")
    x = np.random.default_rng(0).standard_normal((16, 3, 96, 96)).astype(np.float32)
    np.savez(tmp_path / "batch.npz", x=x, target=np.arange(16) % 5)
    files = str(tmp_path / "program.pock"), str(tmp_path / "batch.npz")
    command = [sys.executable, "-m", "pockengine.analysis.measure", *files, "train"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert ("features" in program.signature.entries) == (trained != ("*",))
    assert found["planned"] == found["arena"] == program.peak_bytes > 20e6
    assert abs(found["private"] - found["planned"]) <= 0.05 * found["planned"] + 4e6


def test_training_less_takes_less() -> None:
    graph = image_graph(seeded(ConvNet))

    def extra(scheme: pe.UpdateScheme) -> int:
        job = Job.of(graph, "cross_entropy", "adam", scheme, 8, pe.Target.host(threads=1))
        return extra_training_bytes(plan_job(job).plan)

    sizes = [extra(pe.UpdateScheme.full(graph)), extra(pe.UpdateScheme.head_only(graph))]
    assert sizes[0] > 3 * sizes[1]
