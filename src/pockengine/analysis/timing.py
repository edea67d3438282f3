"""How long a step takes, without compiling it: from the measured steps of a few other schemes.

    calibration = calibrate(job, schemes)             compiles and times each of them here
    calibration.step_seconds(plan, job)               the same model, batch and target

`calibrate` is in analysis/calibrate.py.

A step that some measured program had too, the same operators on the same shapes by the same
kernel, has the time that it took there. One that none had is estimated: by a model of its kind,
fixed cost + FLOPs + bytes with no negative part, times how much the nearest measured steps of the
kind differ from the model. All steps together are scaled to the time of a whole call.
"""

import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from pockengine import structure
from pockengine.analysis.candidates import RATIOS
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.schedule import Step, storage
from pockengine.job import Job
from pockengine.ops.panels import FromPanels
from pockengine.passes.fuse import anchor_of
from pockengine.plan.planner import Plan
from pockengine.plan.report import prefix_samples
from pockengine.runtime.program import FEATURES
from pockengine.scheme import UpdateScheme

FORMAT, VERSION = "pockengine.calibration", 2
FEWEST = 4  # measured steps of a kind that has a model of its own
NEAREST = 3  # measured steps that correct the model


@dataclass(frozen=True)
class Work:
    """What decides the time of a step: `key` is all of it, the rest is what a model goes by."""

    key: str
    kind: str
    flops: int
    nbytes: int


@dataclass(frozen=True)
class Measured(Work):
    """A step with the seconds that it took."""

    seconds: float


@dataclass(frozen=True)
class Calibration:
    """Steps measured for one model, batch and target. `errors` are relative: of each program when
    it is estimated from the others alone.
    """

    steps: tuple[Measured, ...]
    fixed: float  # seconds of a call beside its steps
    factor: float  # of the steps' seconds
    errors: tuple[float, ...] = ()
    probe: float = 0.0  # seconds of a call of the first program: the machine that this is for

    def step_seconds(self, plan: Plan, job: Job) -> float:
        """The seconds of one `Session.step`, the frozen prefix included."""
        return self.fixed + self.factor * self.sum_of_steps(plan, job)

    def sum_of_steps(self, plan: Plan, job: Job) -> float:
        """The seconds of all native steps of a call."""
        return sum(
            runs * sum(self.estimate(work_of(step)) for step in plan.entries[name].schedule.steps)
            for name, runs in runs_of(plan, job).items()
        )

    def knows(self, work: Work) -> bool:
        """Whether a measured program has such a step."""
        return work.key in self._known

    def estimate(self, work: Work) -> float:
        """The seconds of a native step: as measured, or by the model of its kind."""
        known = self._known.get(work.key)
        return self._models.of(work) if known is None else known

    @cached_property
    def _known(self) -> dict[str, float]:
        return {step.key: step.seconds for step in self.steps}

    @cached_property
    def _models(self) -> "_Models":
        return _Models(self.steps)

    def to_json(self) -> str:
        """The calibration as JSON; `from_json` is the inverse."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @staticmethod
    def from_json(text: str) -> "Calibration":
        """Reads what `to_json` wrote. Raises InputError for anything else."""
        try:
            row = json.loads(text)
            if row.pop("format") != FORMAT or row.pop("version") != VERSION:
                raise ValueError("another format or version")
            steps = tuple(Measured(**step) for step in row.pop("steps"))
            return Calibration(steps, errors=tuple(row.pop("errors")), **row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"this is no calibration that pockengine wrote: {error}") from error


def runs_of(plan: Plan, job: Job) -> dict[str, float]:
    """The entry points that a `Session.step` runs, and how often, on average."""
    few = prefix_samples(plan, job.samples)
    parts = job.batch // job.samples
    runs: dict[str, float] = {FEATURES: parts * job.samples / few} if few else {}
    last = 1 / job.accumulate
    return runs | ({"accumulate": parts - last} if parts > last else {}) | {"train": last}


# ---- what a step is ------------------------------------------------------------------------------


def work_of(step: Step) -> Work:
    """What decides how long a step takes. Which channels are taken does not, how many does."""
    values = [v for v in step.values if not isinstance(v.op, Leaf)]
    text = [_line(v, v in step.results) for v in values]
    text += [f"copy {leaf.type}" for _, leaf in step.copies]
    digest = hashlib.blake2b("\n".join([step.variant, *text]).encode(), digest_size=12)
    moved = [*step.reads, *step.results, *(leaf for _, leaf in step.copies)]
    flops, nbytes = sum(v.flops for v in values), sum(v.type.nbytes for v in moved)
    return Work(digest.hexdigest(), _kind(step), flops, nbytes)


def _line(value: Value, stored: bool) -> str:
    parts = vars(value.op).items()
    settings = {k: _short(v) for k, v in parts if not k.startswith("_")}
    operands = (
        f"{x.type}{' panels' * isinstance(storage(x).op, FromPanels)}" for x in value.inputs
    )
    return f"{type(value.op).__name__} {settings} {' '.join(operands)} {value.type} {stored}"


def _short(setting: object) -> object:
    """A setting; of many indices their number."""
    many = isinstance(setting, tuple) and len(setting) > 8
    return len(setting) if many else setting  # type: ignore[arg-type]


def _kind(step: Step) -> str:
    anchor = anchor_of(step.values)
    if anchor is None:
        return "loop" if step.values else "copy"
    turned = [side for side in "ab" if getattr(anchor.op, f"transpose_{side}", False)]
    grouped = getattr(anchor.op, "groups", 1) > 1
    return " ".join([type(anchor.op).__name__, step.variant, *turned, *["grouped"] * grouped])


# ---- estimates of what was not measured ----------------------------------------------------------


class _Models:
    """A model a kind, and one of all steps for kinds that were measured too seldom."""

    def __init__(self, steps: Sequence[Measured]) -> None:
        self.all = _Model(steps)
        kinds = {step.kind for step in steps}
        groups = {kind: [s for s in steps if s.kind == kind] for kind in kinds}
        self.kinds = {k: _Model(group) for k, group in groups.items() if len(group) >= FEWEST}

    def of(self, work: Work) -> float:
        return self.kinds.get(work.kind, self.all).seconds(work)


class _Model:
    """seconds = a + b * FLOPs + c * bytes, corrected by the nearest measured steps."""

    def __init__(self, steps: Sequence[Measured]) -> None:
        self.steps = steps
        self.weights = _fitted(steps)
        self.places = np.array([_place(s) for s in steps]).reshape(-1, 2)
        self.off = np.array([math.log(s.seconds / self.plain(s)) for s in steps])

    def plain(self, work: Work) -> float:
        return max(1e-9, float(self.weights @ _parts(work)))

    def seconds(self, work: Work) -> float:
        if not self.steps:
            return self.plain(work)
        far = np.abs(self.places - _place(work)).sum(1)
        near = np.argsort(far, kind="stable")[:NEAREST]
        trust = 1 / (0.1 + far[near])
        return self.plain(work) * math.exp(float((trust * self.off[near]).sum() / trust.sum()))


def _parts(work: Work) -> Array:
    return np.array([1.0, work.flops, work.nbytes])


def _place(work: Work) -> Array:
    return np.log2([1.0 + work.flops, 1.0 + work.nbytes])


def _fitted(steps: Sequence[Measured]) -> Array:
    """The weights >= 0 of the least relative squares: the best of the subsets that are."""
    rows = np.array([_parts(s) / s.seconds for s in steps]).reshape(-1, 3)
    return least_squares(rows, np.ones(len(rows)))


def least_squares(rows: Array, wanted: Array) -> Array:
    """x >= 0 that makes |rows @ x - wanted| the smallest, for a few columns."""
    count = rows.shape[1]
    best, least = np.zeros(count), float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in map(list, itertools.combinations(range(count), size)):
            scale = np.maximum(np.abs(rows[:, chosen]).max(0, initial=0.0), 1e-300)
            part = np.linalg.lstsq(rows[:, chosen] / scale, wanted, rcond=None)[0] / scale
            rest = rows[:, chosen] @ part - wanted
            if (part >= 0).all() and float(rest @ rest) < least:
                best, least = np.zeros(count), float(rest @ rest)
                best[chosen] = part
    return best


# ---- from timed programs ---------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A program that was timed: the seconds of a call, and of each step of its entry points."""

    plan: Plan
    job: Job
    steps: dict[str, tuple[Measured, ...]]
    call: float


def from_runs(runs: Sequence[Run], probe: float = 0.0) -> Calibration:
    """A calibration from timed programs. Raises InputError where there is none."""
    if not runs:
        raise InputError("a calibration needs at least one timed program")
    errors = []
    for run in runs if len(runs) > 1 else ():
        others = _joined([r for r in runs if r is not run])
        errors.append(abs(others.step_seconds(run.plan, run.job) / run.call - 1))
    return replace(_joined(runs), errors=tuple(errors), probe=probe)


def _joined(runs: Sequence[Run]) -> Calibration:
    """The median of each step over the programs that have it. A step takes less in a program that
    leaves more of its operands in the caches, so whole calls are fitted to the sums of medians.
    """
    taken: dict[str, list[Measured]] = {}
    for step in (step for run in runs for steps in run.steps.values() for step in steps):
        taken.setdefault(step.key, []).append(step)
    steps = tuple(
        replace(same[0], seconds=statistics.median(s.seconds for s in same))
        for same in taken.values()
    )
    found = Calibration(steps, 0.0, 1.0)
    rows = [[1 / r.call, found.sum_of_steps(r.plan, r.job) / r.call] for r in runs]
    fixed, factor = least_squares(np.array(rows), np.ones(len(runs)))
    return replace(found, fixed=float(fixed), factor=float(factor))


# ---- which schemes to measure --------------------------------------------------------------------


def calibration_schemes(graph: Graph, ratios: Iterable[float] = RATIOS) -> list[UpdateScheme]:
    """Schemes whose programs have between them most steps that others have: the head alone, biases
    alone, everything, and each ratio of all weights with biases and without, from two depths on.
    """
    head, full = UpdateScheme.head_only(graph), UpdateScheme.full(graph)
    count = len(structure.blocks(graph))
    found = [head, full, head | UpdateScheme.biases(graph)]
    for number, ratio in enumerate(ratios):
        for last in (count, max(1, count // 2)):
            part = _weights(graph, last, ratio)
            biases = (number + (last == count)) % 2
            found.append(head | part | (UpdateScheme.biases(graph, last) if biases else head))
    return list({scheme.to_json(): scheme for scheme in found}.values())


def _weights(graph: Graph, last: int, ratio: float) -> UpdateScheme:
    """The weights of the last blocks, as far as they have input channels a ratio of them."""
    uses = [use for block in structure.blocks(graph)[-last:] for use in block.all if use.weighted]
    head = {use.name for use in structure.head(graph)}
    sliced = {use.name: use.axis is not None and use.role == "weight" for use in uses}
    return UpdateScheme({n: ratio if s else 1.0 for n, s in sliced.items() if n not in head})
