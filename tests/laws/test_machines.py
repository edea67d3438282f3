"""MobileNetV2's training step on other machines, beside that on this one."""

from typing import Any

import numpy as np
import pytest
from machines import Machine, machine

import pockengine as pe
from pockengine.backends.code import Code
from pockengine.compiler import plan_job
from pockengine.ir.graph import Graph
from pockengine.job import Job
from pockengine.program import make_program

pytest.importorskip("torch")
zoo = pytest.importorskip("zoo")
arrays = pytest.importorskip("comparison").arrays
BATCH, STEPS = 4, 4


def losses(entry: Any, graph: Graph, on: Machine) -> list[float]:
    """The losses of a few training steps, on two threads."""
    optimizer, scheme = pe.SGD(momentum=0.9), pe.UpdateScheme.full(graph)
    job = Job.of(graph, "cross_entropy", optimizer, scheme, BATCH, on.target)
    planned = plan_job(job)
    program = make_program(planned.plan, Code(on.build(planned.plan)), planned.layouts, job)
    with pe.Session(program) as session:
        batches = [entry.batch(BATCH, step % 2) for step in range(STEPS)]
        return [session.step(arrays(graph, x), y.numpy(), lr=0.02) for x, y in batches]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name"),
    [("neon", "mobilenetv2"), ("neon", "hf_mobilenetv2"), ("avx2", "mobilenetv2")],
)
def test_losses(target: str, name: str) -> None:
    other, host = machine(target), machine("host")
    if not (isinstance(other, Machine) and isinstance(host, Machine)):
        pytest.skip(f"{other}; {host}")
    entry = zoo.ZOO[name]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    wanted = losses(entry, graph, host)
    np.testing.assert_allclose(losses(entry, graph, other), wanted, rtol=1e-5)
    assert wanted[2] < wanted[0]  # the same batch again
