"""A gated program with some channels open trains as one that was compiled for these channels."""

import random
from collections.abc import Mapping

import numpy as np
import pytest
from comparison import arrays
from small_graphs import Arrays, batch_of, mlp
from zoo import ZOO

import pockengine as pe
from pockengine import structure
from pockengine.autodiff.training import Recipe, accumulating_graphs, training_graph
from pockengine.compiler import build, plan_job
from pockengine.ir.graph import Gate, Graph
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array
from pockengine.ir.verify import verify
from pockengine.job import Job
from pockengine.optim import SGD, Adam, AdamW, Clip, ClipNorm, ClipValue, Lion, Optimizer
from pockengine.runtime.program import Program
from pockengine.scheme import Channels, UpdateScheme

# Where the true gradient is zero, Adam with its usual eps steps by the sign of rounding errors, and
# so does Lion.
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(momentum=0.9, weight_decay=0.01),
    "adam": Adam(weight_decay=0.01, eps=1e-3),
    "adamw": AdamW(weight_decay=0.1, eps=1e-3),
    "lion": Lion(weight_decay=0.1),
}
CLIPS: dict[str, Clip | None] = {
    "unclipped": None,
    "global": ClipNorm(0.1),
    "each": ClipNorm(0.1, per_tensor=True),
    "values": ClipValue(0.01),
}
STEPS, BATCH = 3, 6
ONE = pe.Target.host(threads=1)


# ---- the graph -----------------------------------------------------------------------------------


def masks_of(graph: Graph, selection: Mapping[str, Channels | None]) -> dict[str, Array]:
    """The mask of each tensor that a scheme trains."""
    masks = {name: np.array(True) for name in selection}
    for name, channels in selection.items():
        if channels:
            count = graph.params[name].shape[channels.axis]
            masks[name] = np.isin(np.arange(count), channels.indices)
    return masks


def gate_data(graph: Graph, masks: Mapping[str, Array]) -> Arrays:
    """The contents of the gates: those of the masks, everything else closed."""
    gates = {name.removeprefix("gate:"): v for name, v in graph.leaves(Gate).items()}
    return {
        f"gate:{name}": np.broadcast_to(masks.get(name, np.array(False)), v.shape)
        for name, v in gates.items()
    }


def recipes(graph: Graph, optimizer: Optimizer, clip: Clip | None) -> tuple[Recipe, Recipe, Arrays]:
    """A gated recipe for all of the graph, one for a part of it, and the masks of that part."""
    part = UpdateScheme({"fc1.bias": True, "fc2.weight": (1, 4, 6), "fc3.weight": True})
    full = UpdateScheme.full(graph).resolve(graph)
    axes = {name: use.axis for name, use in structure.uses(graph).items()}
    gated = Recipe.of("cross_entropy", optimizer, full, clip=clip, gates=axes)
    selection = part.resolve(graph)
    compiled = Recipe.of("cross_entropy", optimizer, selection, clip=clip)
    return gated, compiled, masks_of(graph, selection)


def assert_same_training(forward: Graph, gated: Arrays, compiled: Arrays, masks: Arrays) -> None:
    for name, before in forward.data.items():
        opened = masks.get(name, np.array(False))
        after = gated[name]
        np.testing.assert_allclose(after, compiled[name], rtol=1e-6, atol=1e-8, err_msg=name)
        closed = np.broadcast_to(~opened, before.shape)
        np.testing.assert_array_equal(after[closed], before[closed], err_msg=name)
        assert not opened.any() or not np.array_equal(after, before)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_open_channels_train_as_in_a_scheme_of_their_own(optimizer: str, clip: str) -> None:
    forward = mlp()
    gated, compiled, masks = recipes(forward, OPTIMIZERS[optimizer], CLIPS[clip])
    whole = verify(training_graph(forward, gated))
    part = training_graph(forward, compiled)
    found, wanted = {**whole.data, **gate_data(whole, masks)}, dict(part.data)
    for step in range(STEPS):
        given = batch_of(forward, step)
        found |= interpret(whole, found | given).updates
        wanted |= interpret(part, wanted | given).updates
    assert_same_training(forward, found, wanted, masks)


def test_gates_act_once_on_an_accumulated_gradient() -> None:
    forward = mlp()
    gated, compiled, masks = recipes(forward, OPTIMIZERS["sgd"], CLIPS["global"])
    runs = []
    for recipe in (gated, compiled):
        first, last = accumulating_graphs(forward, recipe)
        assert not first.leaves(Gate)
        data = {**first.data, **last.data, **gate_data(last, masks)}
        for step in range(STEPS):
            for graph in (first, last):
                data |= interpret(graph, data | batch_of(forward, step)).updates
        runs.append(data)
    assert_same_training(forward, runs[0], runs[1], masks)


def test_gates_of_a_share_of_the_channels() -> None:
    forward = mlp()
    channels = Channels(1, (1, 4, 6))
    recipe = Recipe.of("cross_entropy", "sgd", {"fc2.weight": channels}, gates={"fc2.weight": 1})
    graph = training_graph(forward, recipe)
    assert graph.leaves(Gate)["gate:fc2.weight"].shape == (3,)
    closed = {"gate:fc2.weight": np.array([True, False, True])}
    after = interpret(graph, graph.data | closed | batch_of(forward)).updates["fc2.weight"]
    changed = np.flatnonzero((after != forward.data["fc2.weight"]).any(0))
    assert changed.tolist() == [1, 6]


def test_all_is_open_at_first() -> None:
    forward = mlp()
    gated, _, _ = recipes(forward, SGD(), None)
    graph = training_graph(forward, gated)
    shapes = {name: v.shape for name, v in graph.leaves(Gate).items()}
    expected = {f"gate:fc{i}.weight": (n,) for i, n in ((1, 5), (2, 8), (3, 8))}
    assert shapes == expected | {f"gate:fc{i}.bias": () for i in (1, 2, 3)}
    assert all(graph.data[name].all() for name in shapes)
    assert not set(shapes) & set(graph.updates)


# ---- programs ------------------------------------------------------------------------------------


def gated_program(graph: Graph, **settings: object) -> Program:
    settings = {"scheme": None, "target": ONE, "batch": BATCH} | settings
    return build(plan_job(Job.of(graph, "cross_entropy", gated=True, **settings)))  # type: ignore[arg-type]


def some_scheme(graph: Graph, seed: int) -> UpdateScheme:
    """The head, and about half of all other parameters, at different ratios."""
    rng, found = random.Random(seed), structure.uses(graph)
    head = UpdateScheme.head_only(graph)
    shares: dict[str, float] = {}
    for name in (n for n in UpdateScheme.full(graph).shares if n not in head.shares):
        ratio = rng.choice((1.0, 0.5, 0.25, 0.125)) if found[name].axis is not None else 1.0
        if rng.random() < 0.5:
            shares[name] = ratio
    return head | UpdateScheme(shares)


def trained(
    program: Program, name: str, graph: Graph, masks: Arrays | None
) -> tuple[list[float], Arrays]:
    """The losses and the tensors of some steps, through gates where there are masks."""
    entry = ZOO[name]
    batches = [entry.batch(BATCH, step) for step in range(STEPS)]
    given = [(arrays(graph, inputs), labels.numpy()) for inputs, labels in batches]
    with pe.Session(program) as session:
        if masks is not None:
            session.step(*given[0], lr=1e-3)  # what reset takes back
            session.reset()
            session.set_gates(masks)
        losses = [session.step(x, y, lr=1e-3) for x, y in given]
        return losses, session.state_dict()


@pytest.mark.parametrize(
    ("name", "optimizer", "clip"),
    [
        ("mlp", "adam", "global"),
        ("mobilenetv2", "sgd", "unclipped"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("mlp", "lion", "unclipped"),
                ("cnn1d", "sgd", "global"),
                ("unet", "adamw", "each"),
                ("squeezenet", "adamw", "global"),
                ("mobilenetv3", "adam", "values"),
                ("vit", "adamw", "global"),
                ("vit", "sgd", "unclipped"),
                ("bert", "adam", "global"),
                ("gpt2", "adamw", "unclipped"),
                ("convnext", "sgd", "each"),
            )
        ),
    ],
)
def test_programs(name: str, optimizer: str, clip: str) -> None:
    entry = ZOO[name]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    scheme = some_scheme(graph, seed=len(name))
    selection = scheme.resolve(graph)
    settings = {"optimizer": OPTIMIZERS[optimizer], "clip": CLIPS[clip]}
    masks = masks_of(graph, selection)
    gated = trained(gated_program(graph, **settings), name, graph, masks)
    program = pe.compile(graph, scheme=scheme, target=ONE, batch=BATCH, **settings)  # type: ignore[arg-type]
    compiled = trained(program, name, graph, None)
    np.testing.assert_allclose(gated[0], compiled[0], rtol=1e-6)
    for tensor, wanted in compiled[1].items():
        found = gated[1][tensor]
        error = np.linalg.norm(found.astype(np.float64) - wanted)
        assert error <= 1e-6 * np.linalg.norm(wanted) + 3e-8 * np.sqrt(wanted.size), tensor
    assert_closed_stay(graph, gated[1], selection)


def assert_closed_stay(
    graph: Graph, after: Mapping[str, Array], selection: Mapping[str, Channels | None]
) -> None:
    for name in graph.params:
        before, channels = graph.data[name], selection.get(name)
        if name not in selection:
            assert after[name].tobytes() == before.tobytes()
        elif channels is not None:
            rest = np.setdiff1d(np.arange(before.shape[channels.axis]), channels.indices)
            kept = (np.take(a, rest, channels.axis) for a in (before, after[name]))
            np.testing.assert_array_equal(*kept)
