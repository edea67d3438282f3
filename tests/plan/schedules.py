"""Schedules to plan: random ones, and the training step of networks in the shape of real ones."""

from dataclasses import dataclass, field

import numpy as np

from pockengine.ir.graph import Graph, Input, Param, State, leaf
from pockengine.ir.op import Op, Value
from pockengine.ir.schedule import Schedule, Step, storage
from pockengine.ir.types import TensorType


@dataclass(frozen=True)
class Node(Op):
    """An operator with any result; planning does not look inside."""

    label: str
    type: TensorType

    def infer(self, *types: TensorType) -> TensorType:
        return self.type


@dataclass(frozen=True)
class View(Node):
    alias = True


def f32(*shape: int) -> TensorType:
    return TensorType("f32", shape)


@dataclass
class Net:
    """Builds a schedule with one step a value."""

    inputs: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    updates: dict[str, Value] = field(default_factory=dict)

    def input(self, name: str, *shape: int) -> Value:
        self.inputs.append(leaf(Input, name, f32(*shape)))
        return self.inputs[-1]

    def step(self, label: str, shape: tuple[int, ...], *operands: Value, **extra: object) -> Value:
        value = Node(label, f32(*shape))(*operands, source=label)
        inplace = tuple((value, x) for x in extra.pop("over", ()))  # type: ignore[attr-defined]
        self.steps.append(Step((value,), (value,), inplace=inplace, **extra))  # type: ignore[arg-type]
        return value

    def schedule(self) -> Schedule:
        graph = Graph(tuple(self.inputs), self.outputs, self.updates)
        while unused := self.updates.keys() - graph.leaves().keys():
            self.updates = {k: v for k, v in self.updates.items() if k not in unused}
            graph = Graph(graph.inputs, self.outputs, self.updates)
        needed = set(graph.values())
        return Schedule(graph, tuple(s for s in self.steps if needed.intersection(s.results)))


def view(value: Value, *shape: int) -> Value:
    return View("view", f32(*shape))(value)


def param(name: str, *shape: int) -> Value:
    return leaf(Param, name, f32(*shape))


def state(name: str, *shape: int) -> Value:
    return leaf(State, name, f32(*shape))


def cnn(depth: int = 18, batch: int = 8, size: int = 56, train: int | None = None) -> Schedule:
    """A residual network's training step; the first steps forward, then backward, then updates.

    The last `train` blocks are trained (all of them by default).
    """
    train = depth if train is None else train
    net = Net()
    x, labels = net.input("x", batch, size, size, 3), net.input("labels", batch)
    width, side = 16, size
    saved: list[tuple[Value, Value, Value, Value, Value]] = []
    for i in range(depth):
        if i and i % 4 == 0:
            side, width = max(1, side // 2), min(width * 2, 256)
        w1, w2 = param(f"w{i}.1", x.shape[-1], width * 4), param(f"w{i}.2", width * 4, width)
        h = net.step(f"conv{i}.1", (batch, side, side, width * 4), x, w1, scratch=4096)
        mask = net.step(f"mask{i}", (batch, side, side, width // 8), h)
        a = net.step(f"relu{i}", h.shape, h, over=(h,))
        y = net.step(f"conv{i}.2", (batch, side, side, width), a, w2, scratch=4096)
        if y.shape == x.shape:
            y = net.step(f"add{i}", y.shape, y, x, over=(y, x))
        saved.append((x, w1, mask, a, w2))
        x = y
    pooled = net.step("pool", (batch, width), x)
    net.outputs["loss"] = net.step("loss", (1,), pooled, labels)
    net.outputs["logits"] = pooled
    g = net.step("g_loss", (batch, width), pooled, labels)
    g = net.step("g_pool", x.shape, g)
    gradients: list[tuple[str, Value, Value]] = []
    for i in reversed(range(depth - train, depth)):
        x, w1, mask, a, w2 = saved[i]
        gradients.append((f"w{i}.2", w2, net.step(f"dw{i}.2", w2.shape, a, g, scratch=8192)))
        ga = net.step(f"dx{i}.2", a.shape, g, w2)
        gh = net.step(f"g_relu{i}", a.shape, ga, mask, over=(ga,))
        gradients.append((f"w{i}.1", w1, net.step(f"dw{i}.1", w1.shape, x, gh, scratch=8192)))
        if i > depth - train:
            gx = net.step(f"dx{i}.1", x.shape, gh, w1)
            g = net.step(f"g_add{i}", x.shape, gx, g, over=(gx, g)) if g.shape == x.shape else gx
    for name, w, dw in gradients:
        m = state(f"{name}.m", *w.shape)
        momentum = net.step(f"{name}.m'", w.shape, m, dw, over=(m, dw))
        net.updates[f"{name}.m"] = momentum
        net.updates[name] = net.step(f"{name}'", w.shape, w, momentum, over=(w, momentum))
    return net.schedule()


def random_schedule(rng: np.random.Generator, steps: int = 40) -> Schedule:
    """A schedule with fan-out, aliases, in-place pairs, several results, scratch and updates."""
    net = Net()
    pool = [net.input(f"in{i}", int(rng.integers(1, 200))) for i in range(2)]
    leaves = [param(f"p{i}", int(rng.integers(1, 60))) for i in range(4)]
    leaves += [state(f"s{i}", int(rng.integers(1, 60))) for i in range(3)]
    made: list[Value] = []
    for i in range(steps):
        recent = [*pool[-6:], *leaves]
        picks = rng.permutation(len(recent))[: rng.integers(1, 4)]
        operands = [recent[int(k)] for k in picks]
        made.append(_random_step(net, rng, i, operands))
        if rng.random() < 0.3:
            pool.append(view(made[-1], made[-1].type.size))
        pool.append(made[-1])
    for i, value in enumerate(rng.permutation(np.arange(len(made)))[: rng.integers(1, 4)]):
        net.outputs["loss" if i == 0 else f"out{i}"] = made[int(value)]
    for target in leaves:
        same = [v for v in made if v.type == target.type]
        if same and rng.random() < 0.8:
            net.updates[target.op.name] = same[int(rng.integers(len(same)))]  # type: ignore[attr-defined]
    return net.schedule()


def _random_step(net: Net, rng: np.random.Generator, i: int, operands: list[Value]) -> Value:
    scratch = int(rng.integers(0, 500)) if rng.random() < 0.3 else 0
    if rng.random() < 0.5:  # elementwise, with the size of one operand
        like = storage(operands[0])
        over = tuple(x for x in operands if storage(x).type.size == like.type.size)
        value = Node(f"n{i}", like.type)(*operands)
        pairs = tuple((value, x) for x in over)
    else:
        value = Node(f"n{i}", f32(int(rng.integers(0, 300))))(*operands)
        pairs = ()
    extra = Node(f"m{i}", f32(int(rng.integers(1, 50))))(value) if rng.random() < 0.2 else None
    values = (value,) if extra is None else (value, extra)
    net.steps.append(Step(values, values, scratch, pairs))
    return value
