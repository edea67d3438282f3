"""Puts a plan and its native code together: a program that a session runs and a file keeps."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pockengine.autodiff.objective import CrossEntropy, OwnOutput
from pockengine.backends.code import Code
from pockengine.ir.graph import Gate, Graph, Leaf, Param, State
from pockengine.ir.op import Array, Value
from pockengine.ir.schedule import Schedule
from pockengine.ir.text import print_graph
from pockengine.ir.types import Shape
from pockengine.job import Job
from pockengine.ops.panels import FromPanels
from pockengine.passes.samples import keeps_samples_apart
from pockengine.plan.planner import Plan, Slot, leaf_name
from pockengine.plan.report import peak_by_kind, prefix_samples, to_json
from pockengine.runtime import program as runtime
from pockengine.runtime.artifact import Contents, write_artifact
from pockengine.scheme import UpdateScheme
from pockengine.target import Target

Layouts = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class CompiledProgram(runtime.Program):
    """A program with all that was known when it was made: its plan, its source, its scheme."""

    plan: Plan = field(kw_only=True)
    code: Code = field(kw_only=True)
    scheme: UpdateScheme = field(kw_only=True)
    target: Target = field(kw_only=True)

    def save(self, path: str | Path) -> None:
        """Writes a `.pock` file. Raises ArtifactError for a program without native code."""
        target = {key: getattr(self.target, key) for key in ("backend", "triple", "cpu")}
        entries = self.plan.entries.items()
        graphs = "".join(f"entry {name}\n{print_graph(e.schedule.graph)}" for name, e in entries)
        plan, code = to_json(self.plan), self.code
        write_artifact(Path(path), Contents(self, target, graphs, plan, code.source, code.library))


def make_program(plan: Plan, code: Code, layouts: Layouts, job: Job) -> CompiledProgram:
    """The program of a plan. Weights are copied: later changes of the model do not reach it."""
    data = _data(plan)
    leaves = _leaves(plan, layouts, job)
    originals = tuple(name for name in _public(job.graph) if name not in leaves)

    def fill(name: str, out: Array) -> None:
        out[...] = data[name]

    def original(name: str) -> Array:
        return job.graph.data[name].copy()

    return CompiledProgram(
        _signature(plan, leaves, job),
        code.start,
        fill,
        original,
        originals,
        plan=plan,
        code=code,
        scheme=job.scheme,
        target=job.target,
    )


def _data(plan: Plan) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for entry in plan.entries.values():
        graph = entry.schedule.graph
        found |= {name: graph.data[name] for name in graph.leaves() if name in graph.data}
    return found


def _leaves(plan: Plan, layouts: Layouts, job: Job) -> dict[str, runtime.Leaf]:
    values: dict[str, Value] = {}
    for entry in plan.entries.values():
        values |= entry.schedule.graph.leaves()
    public, changing, unpacked = set(_public(job.graph)), _changing(plan), _unpacked(plan)
    found = {}
    for name, slot in plan.persistent.items():
        if slot.kind == "feature":
            continue
        channels = job.selection.get(name)
        found[name] = runtime.Leaf(
            name,
            values[name].dtype,
            values[name].shape,
            slot.offset,
            _leaf_kind(values[name], slot, name in changing),
            layouts.get(name),
            (channels.axis, tuple(channels.indices)) if channels else None,
            name in public,
            unpacked.get(name),
        )
    return found


def _leaf_kind(leaf: Value, slot: Slot, changes: bool) -> str:
    if isinstance(leaf.op, Gate):
        return "gate"
    return slot.kind if changes else "frozen"


def _unpacked(plan: Plan) -> dict[str, Shape]:
    """The shapes of the leaves that are stored in panels."""
    graphs = (entry.schedule.graph for entry in plan.entries.values())
    read = (v for graph in graphs for v in graph.values() if isinstance(v.op, FromPanels))
    return {leaf_name(v.inputs[0]): v.op.shape for v in read}  # type: ignore[attr-defined]


def _public(graph: Graph) -> tuple[str, ...]:
    """The names of the source model's own tensors."""
    named = graph.leaves(Param) | graph.leaves(State)
    return graph.keys or tuple(name for name in named if name != "rng")


def _changing(plan: Plan) -> set[str]:
    return {name for entry in plan.entries.values() for name in entry.schedule.graph.updates}


def _signature(plan: Plan, leaves: dict[str, runtime.Leaf], job: Job) -> runtime.Signature:
    loss = job.loss
    entries = {n: _entry(plan, n, e.schedule) for n, e in plan.entries.items()}
    classes = ignored = None
    if isinstance(loss, CrossEntropy):
        logits = loss.prediction(job.graph)
        classes, ignored = logits.shape[loss.axis], loss.ignore_index
    return runtime.Signature(
        entries,
        leaves,
        plan.arena_bytes,
        job.samples,
        job.target.threads,
        tuple(leaf_name(v) for v in job.graph.inputs),
        _prefix(plan, job.samples),
        parts=job.batch // job.samples,
        accumulate=job.accumulate,
        precision=job.precision,
        sums=_sums(plan, job.graph),
        full_batches=not (isinstance(loss, OwnOutput) or keeps_samples_apart(job.graph)),
        classes=classes,
        ignore_index=ignored,
        aliases=job.graph.aliases,
        memory={kind: size for kind, size in peak_by_kind(plan, "train").items()},
        scheme=job.scheme.to_json(),
    )


def _sums(plan: Plan, graph: Graph) -> tuple[str, ...]:
    """The states that add up the gradients of one step."""
    if "accumulate" not in plan.entries:
        return ()
    updates = plan.entries["accumulate"].schedule.graph.updates
    return tuple(name for name in updates if name not in graph.leaves())


def _prefix(plan: Plan, batch: int) -> runtime.Prefix | None:
    """What is known of the frozen prefix: how many samples at a time, and what decides it."""
    samples = prefix_samples(plan, batch)
    if samples is None:
        return None
    graph = plan.entries[runtime.FEATURES].schedule.graph
    digest = hashlib.sha256(print_graph(graph).encode())
    for leaf in graph.leaves():
        if leaf in graph.data:
            digest.update(np.ascontiguousarray(graph.data[leaf]).tobytes())
    return runtime.Prefix(samples, digest.hexdigest())


def _entry(plan: Plan, name: str, schedule: Schedule) -> runtime.Entry:
    graph = schedule.graph

    def tensor(label: str, value: Value) -> runtime.Tensor:
        return runtime.Tensor(label, value.dtype, value.shape, plan.offset(name, value))

    inputs = tuple(tensor(v.op.name, v) for v in graph.inputs if isinstance(v.op, Leaf))
    return runtime.Entry(inputs, tuple(tensor(n, v) for n, v in graph.outputs.items()))
