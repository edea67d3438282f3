"""Ten steps of PyTorch beside ten steps of a compiled program.

PyTorch computes in float64, so that what differs is the program's error alone. A change is judged
relative to its own size; but a parameter whose true gradient is zero (a convolution's bias under a
batch norm, the bias of attention's keys) changes by rounding alone, so no change is judged on a
scale below `NOISE` of the whole model's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from comparison import Inputs, arrays, call
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Entry

import pockengine as pe
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.scheme import Channels

STEPS, BATCH, NOISE = 10, 4, 1e-3
Selection = Mapping[str, Channels | None]


@dataclass(frozen=True)
class Run:
    """The loss of each step, and every tensor after the last."""

    losses: list[float]
    state: dict[str, Array]


def full(graph: Graph) -> pe.UpdateScheme:
    return pe.UpdateScheme.full(graph)


def sparse(graph: Graph) -> pe.UpdateScheme:
    """The head, all biases, and half of the input channels of each second weight that has any."""
    shares: dict[str, float] = {}
    for name in [n for n, p in graph.params.items() if p.type.rank > 1][::2]:
        try:
            pe.UpdateScheme.select(graph, {name: 0.5})
        except pe.SchemeError:  # a table, or a weight that is no matrix
            continue
        shares[name] = 0.5
    chosen = pe.UpdateScheme.head_only(graph) | pe.UpdateScheme.biases(graph)
    return pe.UpdateScheme({**shares, **chosen.shares})


SCHEMES: dict[str, Callable[[Graph], pe.UpdateScheme]] = {"full": full, "sparse": sparse}


def batches(entry: Entry) -> Iterator[tuple[Inputs, Tensor]]:
    """Two batches, in turn, so that the loss falls and every step still differs."""
    return (entry.batch(BATCH, step % 2) for step in range(STEPS))


def compiled_run(
    entry: Entry, graph: Graph, scheme: pe.UpdateScheme, target: pe.Target, lr: float
) -> Run:
    """The steps of a compiled program."""
    program = pe.compile(
        graph,
        loss="cross_entropy",
        optimizer=pe.SGD(momentum=0.9),
        scheme=scheme,
        batch=BATCH,
        target=target,
    )
    with pe.Session(program) as session:
        losses = [
            session.step(arrays(graph, inputs), labels.numpy(), lr=lr)
            for inputs, labels in batches(entry)
        ]
        return Run(losses, session.state_dict())


def torch_run(entry: Entry, selection: Selection, lr: float) -> Run:
    """The same steps by PyTorch, in float64."""
    model = entry.model().double()
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        weight.requires_grad_(name in selection)
    trained = [weights[name] for name in selection]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    losses = []
    with _double():
        for inputs, labels in batches(entry):
            loss = F.cross_entropy(call(model, _doubled(inputs)), labels)
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
        error = np.linalg.norm(got.state[name].astype(np.float64) - wanted.state[name])
        scale = max(float(np.linalg.norm(change)), NOISE * typical * np.sqrt(change.size))
        errors.append((float(error) / scale, name))
    return max(errors)[0]


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
