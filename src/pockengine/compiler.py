"""The pipeline: from an imported graph to a program, one line a stage.

    graph -> entry points (train, evaluate, predict, ...) -> schedules -> plan -> code -> program

Every stage is a pure function; each graph is verified, and an observer can print it.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import partial

from pockengine.autodiff.objective import Loss, OwnOutput
from pockengine.autodiff.training import (
    Recipe,
    accumulating_graphs,
    evaluation_graph,
    training_graph,
)
from pockengine.backends import c, numpy
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, alike, leaf
from pockengine.ir.memo import Memo
from pockengine.ir.op import Value
from pockengine.ir.rewrite import with_batch
from pockengine.ir.schedule import Schedule
from pockengine.ir.types import TensorType, holds_batch
from pockengine.ir.verify import verify
from pockengine.job import Job, Precision
from pockengine.optim import Clip, Optimizer
from pockengine.passes.fold import fold, fold_constants
from pockengine.passes.fuse import fuse
from pockengine.passes.gains import gain_gradients
from pockengine.passes.layout import channels_last
from pockengine.passes.lower import lower
from pockengine.passes.masks import pack_masks
from pockengine.passes.mode import inference_mode, training_mode, weigh_batch
from pockengine.passes.narrow import narrow
from pockengine.passes.prefix import frozen_prefix, hand_over, micro_batch, without_prefix
from pockengine.passes.prepack import prepack
from pockengine.passes.prune import prune
from pockengine.passes.recompute import recompute
from pockengine.passes.reorder import reorder
from pockengine.passes.simplify import simplify
from pockengine.passes.slice import push_slices
from pockengine.plan.planner import Plan, check_budget, plan
from pockengine.plan.verify import verify_plan
from pockengine.program import CompiledProgram, Layouts, make_program
from pockengine.scheme import UpdateScheme
from pockengine.target import Target

Observer = Callable[[str, str, Graph], None]
"""Called with the entry point, the stage, and the graph after it."""


def compile(
    graph: Graph,
    *,
    loss: Loss | str = "cross_entropy",
    optimizer: Optimizer | str = "sgd",
    scheme: UpdateScheme | None = None,
    batch: int = 8,
    target: Target | None = None,
    clip: Clip | None = None,
    accumulate: int = 1,
    micro_batch: int | None = None,
    precision: Precision = "f32",
    tune: bool = False,
) -> CompiledProgram:
    """A program that trains, evaluates and predicts with `graph` at batches of up to `batch`.

    Without a scheme everything is trained; without a target the program is for this machine. With
    `accumulate` = k, every k-th `Session.step` applies the gradient of the last k batches.
    A step computes `micro_batch` samples at a time and adds up their gradients, which takes less
    memory and gives the same step; without it, the whole batch at once, or the largest part of it
    that the target's memory budget allows.
    `precision` "bf16" stores frozen weights and saved activations in bf16, and "bf16_products" also
    rounds what frozen weights are multiplied with. `tune` measures on this machine which kernels
    are the fastest, rather than guess; what it finds is kept in the cache folder.
    Raises SchemeError, InputError, UnsupportedError, MemoryBudgetError, CompilerMissingError.
    """
    job = Job.of(
        graph,
        loss,
        optimizer,
        scheme,
        batch,
        target,
        clip,
        accumulate,
        micro_batch,
        precision,
        tune,
    )
    return build(plan_job(job))


@dataclass(frozen=True)
class Planned:
    """A job with every byte in its place and nothing compiled yet: what `pockengine plan` shows."""

    job: Job
    plan: Plan
    layouts: Layouts


def plan_job(job: Job, observe: Observer | None = None, memo: Memo | None = None) -> Planned:
    """Builds, optimises, schedules and plans all entry points of a job.

    With a memory budget, and unless the job says how, a step is computed in as few parts as fit.
    Kernels are measured for the plan that is chosen alone. With a `memo`, of jobs that differ in
    their schemes alone, stages that were made before are not observed.
    """
    budget, observe, memo = job.target.memory_budget, observe or (lambda *_: None), memo or Memo()
    if job.micro_batch is not None:
        _check_parts(job)
    found = _plan(job, observe, memo)
    if budget is not None and job.micro_batch is None and job.divisible:
        for size in (n for n in range(job.batch - 1, 0, -1) if job.batch % n == 0):
            if found.plan.arena_bytes <= budget:
                break
            tried = _plan(replace(job, micro_batch=size), observe, memo)
            found = min(found, tried, key=lambda p: p.plan.arena_bytes)
    check_budget(found.plan, budget)
    return _tuned(found) if job.tune else found


def build(planned: Planned) -> CompiledProgram:
    """The program of a planned job. Raises CompilerMissingError, CompileFailedError."""
    back_end = c if planned.job.target.backend == "c" else numpy
    code = back_end.build(planned.plan, planned.job.target)
    return make_program(planned.plan, code, planned.layouts, planned.job)


def _plan(job: Job, observe: Observer, memo: Memo) -> Planned:
    """The plan of a job, however large."""
    graphs, layouts = build_graphs(job, observe, memo)
    if job.precision != "f32":
        graphs = _narrowed(graphs, job.precision, observe)
    if job.target.backend == "c":
        graphs, layouts = prepack(graphs, layouts, job.target.nr, memo)
    in_parts = job.samples < job.batch
    make = partial(schedule, target=job.target, in_parts=in_parts, check=memo.checks)
    schedules = {n: memo.of("schedule", g, partial(make, g)) for n, g in graphs.items()}
    made = plan(schedules, memo)
    return Planned(job, verify_plan(made) if memo.checks else made, layouts)


def _tuned(planned: Planned) -> Planned:
    """With the kernels that are the fastest here, if their workspace is within the budget too."""
    target = planned.job.target
    schedules = {name: entry.schedule for name, entry in planned.plan.entries.items()}
    choices = c.tune(schedules.values(), target)
    chosen = {n: c.with_kernels(s, target, choices) for n, s in schedules.items()}
    made = verify_plan(plan(chosen))
    fits = target.memory_budget is None or made.arena_bytes <= target.memory_budget
    return replace(planned, plan=made) if fits else planned


def _check_parts(job: Job) -> None:
    """Raises InputError where a batch cannot be computed in parts of `micro_batch` samples."""
    if job.samples < 1 or job.batch % job.samples:
        raise InputError(
            f"micro_batch must divide the batch of {job.batch}, got {job.samples}; "
            "choose one of its divisors"
        )
    if job.samples < job.batch and not job.divisible:
        raise InputError(
            "the model or its loss mixes the samples of a batch (batch norm with batch statistics, "
            "for example), so a batch cannot be computed in parts: leave micro_batch out, or put "
            "the model into eval mode before importing it"
        )


def _narrowed(
    graphs: dict[str, Graph], precision: Precision, observe: Observer
) -> dict[str, Graph]:
    """The graphs with bf16 for what is stored; all entry points share the weights."""
    graphs = narrow(graphs, rounded_products=precision == "bf16_products")
    for name, graph in graphs.items():
        observe(name, "narrow", verify(graph))
    return graphs


def schedule(graph: Graph, target: Target, in_parts: bool = False, check: bool = True) -> Schedule:
    """The steps of one entry point, in an order with a small peak."""
    if target.backend == "numpy":
        return reorder(fuse(graph))
    ready = prune(c.canonical(graph))
    ready = recompute(ready) if in_parts else ready
    ready = verify(ready) if check else ready
    return reorder(c.with_kernels(fuse(ready, c.row_length), target))


def build_graphs(
    job: Job, observe: Observer, memo: Memo | None = None
) -> tuple[dict[str, Graph], Layouts]:
    """The graph of every entry point, by name, and the layouts in which they share the weights."""
    memo = memo or Memo()
    updated = memo.of("updated", job.graph, lambda: {*training_mode(job.graph).updates})
    changing = frozenset(job.selection).union(updated)
    split = _split(job, changing, observe, memo)
    make = partial(_forwards, job, split, changing, observe, memo)
    forwards = memo.of("forward", split, make, changing)
    layouts = split.layouts | forwards.layouts
    forward = forwards.training
    recipe = Recipe.of(job.loss, job.optimizer, job.selection, layouts, job.clip, job.gates)
    if job.accumulate == 1 and job.samples == job.batch:
        raw = {"train": training_graph(forward, recipe)}
    else:
        first, last = accumulating_graphs(forward, recipe)
        raw = {"train": last, "accumulate": first}
    backward = {n: _backward(g, changing, _Watch(observe, memo, n)) for n, g in raw.items()}
    rest = {"evaluate": forwards.evaluation, "predict": forwards.inference}
    return split.entry | backward | rest, layouts


class _Watch:
    """Shows an observer the graphs of entry points after each stage, and verifies them."""

    def __init__(self, observe: Observer, memo: Memo, *entries: str) -> None:
        self.observe, self.memo, self.entries = observe, memo, entries
        self.known: set[Value] = set()

    def __call__(self, stage: str, graph: Graph) -> Graph:
        for entry in self.entries:
            self.observe(entry, stage, graph)
        return verify(graph, self.known) if self.memo.checks else graph


@dataclass(frozen=True, eq=False)
class _Split:
    """The entry point of the frozen prefix, if there is one, and what is left for the others: as it
    trains and as it predicts.
    """

    entry: dict[str, Graph]
    layouts: Layouts
    training: Graph
    inference: Graph


def _split(job: Job, changing: Set[str], observe: Observer, memo: Memo) -> _Split:
    prefix = frozen_prefix(job.graph, changing)
    boundary = tuple(prefix.outputs.values()) if prefix else ()

    def make() -> _Split:
        entry, suffix, layouts = _cut(job, prefix, observe, memo)
        static = _at_batch(suffix, job.samples)
        training = training_mode(static)
        if not isinstance(job.loss, OwnOutput):
            training = _weighed(training, job.samples)
        return _Split(entry, layouts, training, inference_mode(static))

    return memo.get("split", (job.samples, boundary), make)


def _cut(
    job: Job, prefix: Graph | None, observe: Observer, memo: Memo
) -> tuple[dict[str, Graph], Graph, Layouts]:
    """The entry point of the prefix, and the graph that is left."""
    if prefix is None:
        return {}, job.graph, {}
    few = inference_mode(with_batch(prefix, micro_batch(prefix, job.samples)))
    forward, layouts = _forward(few, job.target, set(), _Watch(observe, memo, "features"))
    forward, perms = hand_over(forward)
    return {"features": forward}, without_prefix(job.graph, prefix, perms), layouts


@dataclass(frozen=True, eq=False)
class _Forwards:
    """The forward graphs of what is left behind the prefix."""

    training: Graph
    inference: Graph
    evaluation: Graph
    layouts: Layouts


def _forwards(
    job: Job, split: _Split, changing: Set[str], observe: Observer, memo: Memo
) -> _Forwards:
    both = alike(split.training, split.inference)  # without dropout and batch statistics
    entries = ("train", "predict") if both else ("train",)
    target = job.target
    forward, layouts = _forward(split.training, target, changing, _Watch(observe, memo, *entries))
    still = forward
    if not both:
        watch = _Watch(observe, memo, "predict")
        still, more = _forward(split.inference, target, changing, watch)
        layouts |= more
    judged = evaluation_graph(still, job.loss)
    metrics = {n: v for n, v in judged.outputs.items() if n not in still.outputs or n == "loss"}
    evaluation = verify(_cleaned(replace(judged, outputs=metrics), changing, memo))
    return _Forwards(forward, still, evaluation, layouts)


def _forward(
    graph: Graph, target: Target, changing: Set[str], seen: _Watch
) -> tuple[Graph, Layouts]:
    """The forward graph as it is differentiated: norms folded, channels last, products plain."""
    layouts: Layouts = {}
    memo = seen.memo
    wanted = memo.of("wanted", graph, lambda: seen("wanted", push_slices(graph)))
    graph = memo.of("mode", wanted, lambda: seen("mode", simplify(wanted)))
    graph = seen("fold", prune(fold(graph, changing, memo)))  # knows channels-first only
    if target.backend == "c":
        graph, layouts = channels_last(graph, memo)
        graph = seen("layout", prune(simplify(graph)))
        graph = seen("lower", prune(simplify(lower(graph))))  # so gradients come out lowered
    return seen("forward", _cleaned(graph, changing, memo)), layouts


def _backward(graph: Graph, changing: Set[str], seen: _Watch) -> Graph:
    """A training graph with its slices pushed up and its truth values packed."""
    graph = seen("autodiff", graph)
    graph = seen("slice", push_slices(graph))
    graph = seen("simplify", _cleaned(graph, changing, seen.memo))
    graph = seen("gains", prune(gain_gradients(graph)))
    return seen("masks", prune(pack_masks(graph)))


def _cleaned(graph: Graph, changing: Set[str], memo: Memo) -> Graph:
    return prune(fold_constants(prune(simplify(graph)), changing | graph.updates.keys(), memo))


def _weighed(graph: Graph, batch: int) -> Graph:
    """Batch statistics leave out the rows that only fill up a batch."""
    weight = leaf(Input, "sample_weight", TensorType("f32", (batch,)))
    return weigh_batch(graph, weight, batch)


def _at_batch(graph: Graph, batch: int) -> Graph:
    """The graph for one batch size. Raises InputError for a model that fixes another."""
    if any(holds_batch(*v.shape) for v in graph.inputs):
        return with_batch(graph, batch)
    fixed = next((v.shape[0] for v in graph.inputs if v.shape), batch)
    if fixed != batch:
        raise InputError(
            f"the model was exported for a batch of {fixed}, not {batch}; compile for "
            f"batch={fixed}, or export it with a dynamic first dimension"
        )
    return graph
