"""The pipeline: from an imported graph to a program, one line a stage.

    graph -> entry points (train, evaluate, predict, ...) -> schedules -> plan -> code -> program

Every stage is a pure function; each graph is verified, and an observer can print it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pockengine.autodiff.objective import Loss, OwnOutput
from pockengine.autodiff.training import (
    Recipe,
    accumulating_graphs,
    evaluation_graph,
    training_graph,
)
from pockengine.backends import c, numpy
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, leaf
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


def plan_job(job: Job, observe: Observer | None = None) -> Planned:
    """Builds, optimises, schedules and plans all entry points of a job.

    With a memory budget, and unless the job says how, a step is computed in as few parts as fit.
    Kernels are measured for the plan that is chosen alone.
    """
    budget, observe = job.target.memory_budget, observe or (lambda *_: None)
    if job.micro_batch is not None:
        _check_parts(job)
    found = _plan(job, observe)
    if budget is not None and job.micro_batch is None and job.divisible:
        for size in (n for n in range(job.batch - 1, 0, -1) if job.batch % n == 0):
            if found.plan.arena_bytes <= budget:
                break
            tried = _plan(replace(job, micro_batch=size), observe)
            found = min(found, tried, key=lambda p: p.plan.arena_bytes)
    check_budget(found.plan, budget)
    return _tuned(found) if job.tune else found


def build(planned: Planned) -> CompiledProgram:
    """The program of a planned job. Raises CompilerMissingError, CompileFailedError."""
    back_end = c if planned.job.target.backend == "c" else numpy
    code = back_end.build(planned.plan, planned.job.target)
    return make_program(planned.plan, code, planned.layouts, planned.job)


def _plan(job: Job, observe: Observer) -> Planned:
    """The plan of a job, however large."""
    graphs, layouts = build_graphs(job, observe)
    if job.precision != "f32":
        graphs = _narrowed(graphs, job.precision, observe)
    if job.target.backend == "c":
        graphs, layouts = prepack(graphs, layouts, job.target.nr)
    in_parts = job.samples < job.batch
    schedules = {name: schedule(graph, job.target, in_parts) for name, graph in graphs.items()}
    return Planned(job, verify_plan(plan(schedules)), layouts)


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


def schedule(graph: Graph, target: Target, in_parts: bool = False) -> Schedule:
    """The steps of one entry point, in an order with a small peak."""
    if target.backend == "numpy":
        return reorder(fuse(graph))
    ready = prune(c.canonical(graph))
    ready = verify(recompute(ready) if in_parts else ready)
    return reorder(c.with_kernels(fuse(ready, c.row_length), target))


def build_graphs(job: Job, observe: Observer) -> tuple[dict[str, Graph], Layouts]:
    """The graph of every entry point, by name, and the layouts in which they share the weights."""
    changing = set(job.selection) | set(training_mode(job.graph).updates)
    prefix, suffix, layouts = _split(job, changing, observe)
    static = _at_batch(suffix, job.samples)
    training = training_mode(static)
    inference = inference_mode(static)
    if not isinstance(job.loss, OwnOutput):
        training = _weighed(training, job.samples)
    forward, more = _forward(training, "train", job.target, changing, observe)
    layouts |= more
    still, more = _forward(inference, "predict", job.target, changing, observe)
    recipe = Recipe.of(job.loss, job.optimizer, job.selection, layouts, job.clip, job.gates)
    if job.accumulate == 1 and job.samples == job.batch:
        raw = {"train": training_graph(forward, recipe)}
    else:
        first, last = accumulating_graphs(forward, recipe)
        raw = {"train": last, "accumulate": first}
    graphs = prefix | {name: _backward(g, name, changing, observe) for name, g in raw.items()}
    judged = evaluation_graph(still, job.loss)
    metrics = {n: v for n, v in judged.outputs.items() if n not in still.outputs or n == "loss"}
    graphs["evaluate"] = verify(_cleaned(replace(judged, outputs=metrics), changing))
    graphs["predict"] = still
    return graphs, layouts | more


def _split(
    job: Job, changing: set[str], observe: Observer
) -> tuple[dict[str, Graph], Graph, Layouts]:
    """The entry point of the frozen prefix, if there is one, and the graph that is left."""
    prefix = frozen_prefix(job.graph, changing)
    if prefix is None:
        return {}, job.graph, {}
    few = inference_mode(with_batch(prefix, micro_batch(prefix, job.samples)))
    forward, layouts = _forward(few, "features", job.target, set(), observe)
    forward, perms = hand_over(forward)
    return {"features": forward}, without_prefix(job.graph, prefix, perms), layouts


def _forward(
    graph: Graph, entry: str, target: Target, changing: set[str], observe: Observer
) -> tuple[Graph, Layouts]:
    """The forward graph as it is differentiated: norms folded, channels last, products plain."""
    layouts: Layouts = {}

    def seen(stage: str, made: Graph) -> Graph:
        observe(entry, stage, made)
        return verify(made)

    graph = seen("wanted", push_slices(graph))
    graph = seen("mode", simplify(graph))
    graph = seen("fold", prune(fold(graph, changing)))  # knows channels-first only
    if target.backend == "c":
        graph, layouts = channels_last(graph)
        graph = seen("layout", prune(simplify(graph)))
        graph = seen("lower", prune(simplify(lower(graph))))  # so gradients come out lowered
    return seen("forward", _cleaned(graph, changing)), layouts


def _backward(graph: Graph, entry: str, changing: set[str], observe: Observer) -> Graph:
    """A training graph with its slices pushed up and its truth values packed."""

    def seen(stage: str, made: Graph) -> Graph:
        observe(entry, stage, made)
        return verify(made)

    graph = seen("autodiff", graph)
    graph = seen("slice", push_slices(graph))
    graph = seen("simplify", _cleaned(graph, changing))
    graph = seen("gains", prune(gain_gradients(graph)))
    return seen("masks", prune(pack_masks(graph)))


def _cleaned(graph: Graph, changing: set[str]) -> Graph:
    return prune(fold_constants(prune(simplify(graph)), changing | set(graph.updates)))


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
