"""Steps of a gated program that are left out: those that serve closed gates alone."""

from collections.abc import Set
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from small_models import ConvNet, image_graph, images, seeded

import pockengine as pe
from pockengine.backends.c.conditions import conditions
from pockengine.backends.c.emit import emit
from pockengine.compiler import build, plan_job
from pockengine.ir.graph import Gate, Leaf
from pockengine.ir.schedule import Schedule, storage
from pockengine.job import Job
from pockengine.optim import Optimizer
from pockengine.plan.planner import Plan
from pockengine.runtime.gates import PREFIX

TARGET = pe.Target.host(threads=2)


def make_job(gated: bool = True, **settings: Any) -> Job:
    given = {"optimizer": pe.Adam(), "scheme": None, "batch": 4, "target": TARGET} | settings
    return Job.of(image_graph(seeded(ConvNet)), "cross_entropy", gated=gated, **given)


def planned(gated: bool = True, **settings: Any) -> Plan:
    return plan_job(make_job(gated, **settings)).plan


def run(schedule: Schedule, opened: Set[str]) -> set[int]:
    """The steps that run with some gates open, as the emitted conditions say."""
    found, running = conditions(schedule), set[int]()
    for number in reversed(range(len(schedule.steps))):
        condition = found.get(number)
        gates = {v.op.name for v in condition.gates} if condition else set()  # type: ignore[attr-defined]
        if condition is None or gates & opened or running & set(condition.steps):
            running.add(number)
    return running


def wanted(schedule: Schedule, opened: Set[str]) -> set[int]:
    """The steps that compute outputs, and what open gates let change: by walking up the graph."""
    graph, steps = schedule.graph, schedule.steps
    kept = {
        storage(value)
        for name, value in graph.updates.items()
        if (gate := f"{PREFIX}{name.partition(':')[0]}") in graph.leaves() and gate not in opened
    }
    found = set(range(len(steps)))
    for number in reversed(range(len(steps))):
        read = {v for n in found if n > number for v in steps[n].reads}
        roots = {*graph.outputs.values(), *graph.updates.values()}
        stored = set(map(storage, steps[number].results)) - (kept - read)
        if not stored & (read | set(map(storage, roots))):
            found.discard(number)
    return found


GATES = (set(), {"head.bias"}, {"stem.weight"}, {"depthwise.weight", "head.weight"})


@pytest.mark.parametrize("opened", GATES)
@pytest.mark.parametrize("optimizer", [pe.SGD(), pe.SGD(momentum=0.9), pe.Adam(), pe.Lion()])
def test_what_runs_is_what_open_gates_need(optimizer: Optimizer, opened: set[str]) -> None:
    schedule = planned(optimizer=optimizer).entries["train"].schedule
    gates = {PREFIX + name for name in opened}
    assert run(schedule, gates) == wanted(schedule, gates)
    assert len(run(schedule, gates)) < len(schedule.steps)


def test_with_all_gates_open_all_runs() -> None:
    schedule = planned().entries["train"].schedule
    everything = set(schedule.graph.leaves(Gate))
    assert run(schedule, everything) == set(range(len(schedule.steps)))


@pytest.mark.parametrize("settings", [{}, {"clip": pe.ClipNorm(1.0)}, {"accumulate": 2}])
def test_what_runs_reads_what_has_run(settings: dict[str, Any]) -> None:
    for entry in planned(**settings).entries.values():
        for gate in entry.schedule.graph.leaves(Gate):
            done = {v for n in run(entry.schedule, {gate}) for v in entry.schedule.steps[n].results}
            for number in run(entry.schedule, {gate}):
                read = entry.schedule.steps[number].reads
                assert all(isinstance(v.op, Leaf) or v in set(map(storage, done)) for v in read)


def test_a_norm_of_all_gradients_needs_them_all() -> None:
    schedule = planned(clip=pe.ClipNorm(1.0)).entries["train"].schedule
    one = run(schedule, {f"{PREFIX}head.bias"})
    rest = set(range(len(schedule.steps))) - one
    stored = {v for n in rest for v in map(storage, schedule.steps[n].results)}
    assert stored <= schedule.updates  # the other tensors' new values, and nothing else


def test_sums_of_gradients_are_never_left_out() -> None:
    plan = planned(accumulate=2)
    assert not conditions(plan.entries["accumulate"].schedule)
    schedule = plan.entries["train"].schedule
    cleared = {storage(v) for n, v in schedule.graph.updates.items() if n.endswith(":gradient")}
    done = {v for n in run(schedule, set()) for v in schedule.steps[n].results}
    assert cleared & set(map(storage, done)) == {v for v in cleared if not isinstance(v.op, Leaf)}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_without_gates_nothing_is_left_out(precision: str) -> None:
    plan = planned(gated=False, precision=precision)
    assert not any(conditions(entry.schedule) for entry in plan.entries.values())
    assert "run_" not in emit(plan, TARGET)


def test_a_step_that_stores_nothing_needs_nothing() -> None:
    schedule = planned().entries["train"].schedule
    hollow = replace(schedule.steps[0], results=())
    assert conditions(replace(schedule, steps=(*schedule.steps, hollow))) == conditions(schedule)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip": pe.ClipNorm(1.0), "optimizer": pe.SGD(momentum=0.9, weight_decay=0.1)},
        {"accumulate": 2, "optimizer": pe.Lion()},
        {
            "scheme": pe.UpdateScheme(
                {"stem.weight": 0.5, "depthwise.weight": 0.5, "head.bias": 1.0}
            )
        },
    ],
)
def test_what_is_left_out_changes_no_bit(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spared = trained(settings)
    writer = import_module("pockengine.backends.c.emit")
    monkeypatch.setattr(writer, "conditions", lambda schedule: {})
    assert trained(settings) == spared


def trained(settings: dict[str, Any]) -> list[bytes]:
    """Losses and tensors while gates, drawn anew every other step, open and close."""
    rng, found = np.random.default_rng(0), []
    program = build(plan_job(make_job(**settings)))
    names = [n.removeprefix(PREFIX) for n in program.signature.leaves if n.startswith(PREFIX)]
    with pe.Session(program) as session:
        for step in range(8):
            if step % 2 == 0:
                session.set_gates({name: True for name in names if rng.random() < 0.4})
            loss = session.step(*images(4, seed=step), lr=0.05)
            state = session.state_dict()
            found.append(np.float64(loss).tobytes() + b"".join(state[n].tobytes() for n in state))
    return found
