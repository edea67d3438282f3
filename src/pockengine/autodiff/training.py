"""From a forward graph to a training graph: loss, gradients, optimizer, new values.

inputs    the model's own, then "target" and "sample_weight", then the learning rate "lr", f32[]
outputs   "loss", "weight" (what its mean was divided by), for classifiers "correct" of "count"
updates   trained parameters, optimizer states, and what the forward graph itself updates
gates     where the recipe asks for them, one leaf for each trained parameter, see gates.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pockengine.autodiff.gates import Gates
from pockengine.autodiff.objective import Loss, Objective, as_loss, quotient
from pockengine.autodiff.reverse import gradients
from pockengine.autodiff.sparse import in_layout, put, stored_axis, take
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph, Input, State, leaf, zeros
from pockengine.ir.op import Array, Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, full, mul
from pockengine.optim import Clip, Optimizer, as_optimizer
from pockengine.scheme import Channels


@dataclass(frozen=True)
class Recipe:
    """How to train: what is lowered, how, and which share of which parameter.

    `selection` is a resolved scheme, and `gates` the axis of each tensor's gate, both in the layout
    in which the forward graph stores each parameter.
    """

    loss: Loss
    optimizer: Optimizer
    selection: Mapping[str, Channels | None]
    clip: Clip | None = None
    gates: Mapping[str, int | None] = field(default_factory=dict)

    @staticmethod
    def of(
        loss: Loss | str,
        optimizer: Optimizer | str,
        selection: Mapping[str, Channels | None],
        layouts: Mapping[str, Sequence[int]] | None = None,
        clip: Clip | None = None,
        gates: Mapping[str, int | None] | None = None,
    ) -> "Recipe":
        """A recipe with names looked up, and channels and gates in the stored layout."""
        known = layouts or {}
        selected = in_layout(selection, known)
        axes = {
            name: axis if axis is None else stored_axis(known.get(name), axis)
            for name, axis in (gates or {}).items()
        }
        return Recipe(as_loss(loss), as_optimizer(optimizer), selected, clip, axes)


def evaluation_graph(forward: Graph, loss: Loss | str) -> Graph:
    """The forward graph with the loss and its metrics beside its own outputs, and no updates."""
    objective = as_loss(loss).objective(forward)
    outputs = {**forward.outputs, **_outputs(objective)}
    return replace(_with_inputs(forward, objective, ()), outputs=outputs, updates={})


def training_graph(forward: Graph, recipe: Recipe) -> Graph:
    """One step of training. Raises SchemeError when nothing that is trained has a gradient."""
    objective = recipe.loss.objective(forward)
    pieces = _pieces(forward, recipe, objective.loss)
    return _applied(forward, recipe, objective, pieces, {}, {})


def accumulating_graphs(forward: Graph, recipe: Recipe) -> tuple[Graph, Graph]:
    """Two graphs that share the weights, for a batch given in parts.

    The first adds a part's gradient, and what to divide by, to states; the second is given the last
    part, applies the sum as one step and zeroes the states. The step is that of one big batch.
    """
    objective = recipe.loss.objective(forward)
    pieces = _pieces(forward, recipe, objective.total)
    sums = {name: leaf(State, f"{name}:gradient", g.type) for name, g in pieces.items()}
    divisor = leaf(State, "accumulated_weight", objective.weight.type)
    states = {v.op.name: v for v in [*sums.values(), divisor]}  # type: ignore[attr-defined]
    added = {f"{name}:gradient": add(sums[name], g) for name, g in pieces.items()}
    added["accumulated_weight"] = add(divisor, objective.weight)
    data = {name: zeros(v.type) for name, v in states.items()}
    first = replace(
        _with_inputs(forward, objective, ()),
        outputs=_outputs(objective),
        updates={**forward.updates, **added},
    ).with_data(**data)
    mean = {n: quotient(added[f"{n}:gradient"], added["accumulated_weight"]) for n in pieces}
    cleared = {name: full(v.shape, v.dtype, 0.0) for name, v in states.items()}
    return first, _applied(forward, recipe, objective, mean, cleared, data)


def _pieces(forward: Graph, recipe: Recipe, loss: Value) -> dict[str, Value]:
    """The gradient of the trained share of each parameter that the loss depends on."""
    params = forward.params
    missing = [name for name in recipe.selection if name not in params]
    if missing:
        raise SchemeError(f"the model's outputs do not depend on {missing[0]!r}; do not train it")
    found = gradients(loss, [params[name] for name in recipe.selection])
    pieces = {
        name: take(found[params[name]], channels)
        for name, channels in recipe.selection.items()
        if params[name] in found
    }
    if not pieces:
        raise SchemeError("the loss depends on none of the parameters that the scheme trains")
    return pieces


def _applied(
    forward: Graph,
    recipe: Recipe,
    objective: Objective,
    pieces: Mapping[str, Value],
    updates: Mapping[str, Value],
    data: Mapping[str, Array],
) -> Graph:
    """The graph of one optimizer step with `pieces`, with further updates and their data."""
    lr = leaf(Input, "lr", TensorType("f32", ()))
    gates = Gates.of(pieces, recipe.gates)
    cut = {name: gates.cut(name, g) for name, g in pieces.items()}
    clipped = recipe.clip.apply(cut) if recipe.clip else cut
    stepped, states = _optimizer_updates(forward, recipe, clipped, gates, lr)
    return replace(
        _with_inputs(forward, objective, (lr,)),
        outputs=_outputs(objective),
        updates={**forward.updates, **stepped, **updates},
    ).with_data(**data, **states, **gates.data)


def _optimizer_updates(
    forward: Graph, recipe: Recipe, pieces: Mapping[str, Value], gates: Gates, lr: Value
) -> tuple[dict[str, Value], dict[str, Array]]:
    """The new values of parameters and optimizer states, and the states' first contents."""
    params, optimizer = forward.params, recipe.optimizer
    _check_groups(optimizer, pieces)
    scalar = TensorType("f32", ())
    clocks = {c: leaf(State, f"optimizer:{c}", scalar) for c in optimizer.clocks}
    ticked = optimizer.tick(clocks)
    updates = {f"optimizer:{c}": value for c, value in ticked.items()}
    states = list(clocks.values())
    for name, g in pieces.items():
        channels = recipe.selection[name]
        own, scale = optimizer.for_param(name)
        slots = {s: leaf(State, f"{name}:{s}", g.type) for s in own.slots}
        rate = lr if scale == 1.0 else mul(lr, scale)
        old = take(params[name], channels)
        piece, new = own.update(old, g, slots, ticked, rate)
        updates[name] = put(params[name], channels, gates.choose(name, piece, old))
        kept = {s: gates.choose(name, value, slots[s]) for s, value in new.items()}
        updates |= {f"{name}:{s}": value for s, value in kept.items()}
        states += slots.values()
    return updates, {v.op.name: zeros(v.type) for v in states}  # type: ignore[attr-defined]


def _check_groups(optimizer: Optimizer, trained: Mapping[str, Value]) -> None:
    for group in optimizer.groups:
        if not any(group.matches(name) for name in trained):
            raise SchemeError(
                f"the optimizer's group {group.pattern!r} names nothing that is trained"
            )


def _outputs(objective: Objective) -> dict[str, Value]:
    return {"loss": objective.loss, "weight": objective.weight, **objective.metrics}


def _with_inputs(forward: Graph, objective: Objective, more: Sequence[Value]) -> Graph:
    """The forward graph with the inputs and constants of the loss, and `more` inputs."""
    extra = [v for v in objective.inputs if v not in forward.inputs]
    inputs = (*forward.inputs, *extra, *more)
    return replace(forward, inputs=inputs).with_data(**objective.data)
