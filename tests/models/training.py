"""Ten steps of PyTorch beside ten steps of a compiled program.

The judge is PyTorch in float64. A change is judged relative to its own size, less what rounding
does to PyTorch itself: a parameter whose true gradient is zero (a convolution's bias under a batch
norm, the bias of attention's keys) changes by rounding alone, and each step rounds every weight
that it stores. No change is judged on a scale below `NOISE` of the whole model's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from comparison import Inputs, arrays, call
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Entry

import pockengine as pe
from pockengine.errors import SchemeError
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.scheme import Channels

STEPS, BATCH = 10, 8
NOISE, MOST_ROUNDING, HALF_ULP = 1e-3, 0.02, 2.0**-24
Selection = Mapping[str, Channels | None]


@dataclass(frozen=True)
class Run:
    """The loss of each step, every tensor after the last, and how far float32 takes PyTorch off."""

    losses: list[float]
    state: dict[str, Array]
    rounding: dict[str, float] = field(default_factory=dict)


def full(graph: Graph) -> pe.UpdateScheme:
    return pe.UpdateScheme.full(graph)


def sparse(graph: Graph) -> pe.UpdateScheme:
    """The head, all biases, and half of the input channels of each second weight that has any."""
    shares: dict[str, float] = {}
    for name in [n for n, p in graph.params.items() if p.type.rank > 1][::2]:
        try:
            pe.UpdateScheme.select(graph, {name: 0.5})
        except SchemeError:  # a table, or a weight that is no matrix
            continue
        shares[name] = 0.5
    chosen = pe.UpdateScheme.head_only(graph) | pe.UpdateScheme.biases(graph)
    return pe.UpdateScheme({**shares, **chosen.shares})


SCHEMES: dict[str, Callable[[Graph], pe.UpdateScheme]] = {"full": full, "sparse": sparse}


def batches(entry: Entry) -> list[tuple[Inputs, Tensor]]:
    """Two batches, in turn, so that the loss falls and every step still differs."""
    return [entry.batch(BATCH, step % 2) for step in range(STEPS)]


def compiled_run(
    entry: Entry,
    graph: Graph,
    scheme: pe.UpdateScheme,
    target: pe.Target,
    lr: float,
    micro_batch: int | None = None,
) -> Run:
    """The steps of a compiled program."""
    program = pe.compile(
        graph,
        loss="cross_entropy",
        optimizer=pe.SGD(momentum=0.9),
        scheme=scheme,
        batch=BATCH,
        micro_batch=micro_batch,
        target=target,
    )
    with pe.Session(program) as session:
        losses = [
            session.step(arrays(graph, inputs), labels.numpy(), lr=lr)
            for inputs, labels in batches(entry)
        ]
        return Run(losses, session.state_dict())


def torch_run(entry: Entry, selection: Selection, lr: float) -> Run:
    """The same steps by PyTorch, in float64, beside those in float32."""
    data = batches(entry)
    single = _torch_steps(entry.model(), data, selection, lr)
    double = entry.model().double()
    doubled = [(_doubled(inputs), labels) for inputs, labels in data]
    with _double():
        exact = _torch_steps(double, doubled, selection, lr)
    rounding = {n: float(np.linalg.norm(single.state[n] - exact.state[n])) for n in selection}
    return Run(exact.losses, exact.state, rounding)


def _torch_steps(
    model: nn.Module, data: list[tuple[Inputs, Tensor]], selection: Selection, lr: float
) -> Run:
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        weight.requires_grad_(name in selection)
    trained = [weights[name] for name in selection]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    losses = []
    for inputs, labels in data:
        loss = F.cross_entropy(call(model, inputs), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        _keep_channels(weights, selection)
        optimizer.step()
    return Run(losses, {n: t.detach().numpy() for n, t in model.state_dict().items()})


@contextmanager
def _double() -> Iterator[None]:
    """What a model makes itself, masks for instance, is float64 too."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _doubled(inputs: Inputs) -> Inputs:
    def double(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    if isinstance(inputs, dict):
        return {name: double(x) for name, x in inputs.items()}
    return tuple(map(double, inputs))


def _keep_channels(weights: Mapping[str, nn.Parameter], selection: Selection) -> None:
    """Zeroes the gradient of every channel that the scheme leaves out."""
    for name, channels in selection.items():
        gradient = weights[name].grad
        if channels is not None and gradient is not None:
            mask = torch.zeros(gradient.shape[channels.axis], dtype=torch.bool)
            mask[list(channels.indices)] = True
            shape = [1] * gradient.dim()
            shape[channels.axis] = -1
            gradient.mul_(mask.reshape(shape))


def worst_change(before: Mapping[str, Array], got: Run, wanted: Run, names: set[str]) -> float:
    """The largest relative L2 error of the total change of a trained tensor."""
    changes = {n: wanted.state[n] - before[n].astype(np.float64) for n in names}
    size = sum(c.size for c in changes.values())
    typical = np.sqrt(sum(float((c**2).sum()) for c in changes.values()) / size)
    errors = []
    for name, change in changes.items():
        error = float(np.linalg.norm(got.state[name].astype(np.float64) - wanted.state[name]))
        scale = max(float(np.linalg.norm(change)), NOISE * typical * np.sqrt(change.size))
        rounding = min(3 * wanted.rounding.get(name, 0.0), MOST_ROUNDING * scale)
        stored = STEPS * HALF_ULP * float(np.linalg.norm(before[name]))
        errors.append(max(0.0, error - rounding - stored) / scale)
    return max(errors)


def untouched(
    before: Mapping[str, Array], after: Mapping[str, Array], selection: Selection
) -> bool:
    """Whether everything that the scheme leaves out is the same to the bit."""
    for name, channels in selection.items():
        if channels is not None:
            rest = np.setdiff1d(np.arange(before[name].shape[channels.axis]), channels.indices)
            kept = [np.take(d[name], rest, channels.axis) for d in (before, after)]
            if not np.array_equal(*kept):
                return False
    return True
