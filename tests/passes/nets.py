"""Small networks that the tests of passes share, as front ends build them, with random weights."""

from dataclasses import dataclass, field

import numpy as np

from pockengine.ir.graph import Graph, Input, Param, State, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Op, Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import (
    add,
    concat,
    matmul,
    mul,
    reduce_mean,
    relu,
    reshape,
    sigmoid,
    transpose,
)
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.elementwise import Clip
from pockengine.ops.norm import BatchNorm
from pockengine.ops.pool import AvgPool, MaxPool
from pockengine.ops.resize import Resize

Arrays = dict[str, np.ndarray]


@dataclass
class Net:
    """Collects the leaves of a network while it is built."""

    seed: int = 0
    data: Arrays = field(default_factory=dict)
    norms_train: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def leaf(self, kind: type, name: str, array: np.ndarray) -> Value:
        self.data[name] = array.astype(np.float32)
        return leaf(kind, name, self.data[name])

    def weight(self, name: str, *shape: int) -> Value:
        return self.leaf(Param, name, self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    def conv(
        self, x: Value, name: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> Value:
        pad = kernel // 2
        w = self.weight(f"{name}.weight", out, x.shape[1] // groups, kernel, kernel)
        op = Conv((stride, stride), ((pad, pad), (pad, pad)), (1, 1), groups, False)
        return op(x, w, source=name)

    def up(self, x: Value, name: str, out: int, groups: int = 1) -> Value:
        """A transposed convolution that doubles the size."""
        size = tuple(2 * n for n in x.shape[2:])
        w = self.weight(f"{name}.weight", x.shape[1], out // groups, 2, 2)
        return ConvInputGrad((2, 2), ((0, 0), (0, 0)), (1, 1), groups, False, size)(x, w)

    def bias(self, x: Value, name: str) -> Value:
        return add(x, reshape(self.weight(f"{name}.bias", x.shape[1]), (x.shape[1], 1, 1)))

    def norm(self, x: Value, name: str) -> Value:
        count = x.shape[1]
        one = self.rng.uniform(0.5, 1.5, count)
        operands = (
            self.leaf(Param, f"{name}.weight", one),
            self.weight(f"{name}.bias", count),
            self.leaf(State, f"{name}.running_mean", self.rng.standard_normal(count)),
            self.leaf(State, f"{name}.running_var", one + 0.5),
        )
        return BatchNorm(1, 1e-5, 0.1, self.norms_train)(x, *operands, source=name)

    def linear(self, x: Value, name: str, out: int) -> Value:
        w = self.weight(f"{name}.weight", out, x.shape[-1])
        return add(matmul(x, w, transpose_b=True), self.weight(f"{name}.bias", out))

    def graph(self, x: Value, y: Value) -> Graph:
        return Graph((x,), {"y": y}, {}, self.data)


def image(batch: int = 2, channels: int = 3, size: int = 8) -> Value:
    return leaf(Input, "x", TensorType("f32", (batch, channels, size, size)))


def mobilenet(norms_train: bool = False) -> Graph:
    """Stem, an inverted residual with squeeze and excitation, global pooling, classifier."""
    net, x = Net(norms_train=norms_train), image()
    y = Clip(0.0, 6.0)(net.norm(net.conv(x, "stem", 8, 3, 2), "stem_norm"))
    h = Clip(0.0, 6.0)(net.norm(net.conv(y, "expand", 16), "expand_norm"))
    h = Clip(0.0, 6.0)(net.norm(net.conv(h, "depthwise", 16, 3, 1, 16), "depthwise_norm"))
    gate = relu(net.bias(net.conv(reduce_mean(h, (2, 3), keepdims=True), "squeeze", 4), "squeeze"))
    h = mul(h, sigmoid(net.bias(net.conv(gate, "excite", 16), "excite")))
    y = add(y, net.norm(net.conv(h, "project", 8), "project_norm"))
    return net.graph(x, net.linear(reduce_mean(y, (2, 3)), "head", 5))


def resnet() -> Graph:
    """Max pooling, a block with a projected shortcut, an excitation made by linear layers."""
    net, x = Net(), image(size=9)
    y = MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False)(relu(net.conv(x, "stem", 6, 3)))
    h = net.norm(net.conv(relu(net.norm(net.conv(y, "a", 8, 3, 2), "a_norm")), "b", 8, 3), "b_norm")
    y = relu(add(h, net.norm(net.conv(y, "shortcut", 8, 1, 2), "shortcut_norm")))
    gate = net.linear(relu(net.linear(reduce_mean(y, (2, 3)), "down", 3)), "up", 8)
    y = mul(y, sigmoid(reshape(gate, (2, 8, 1, 1))))
    y = reduce_mean(y, (2, 3), keepdims=True)
    return net.graph(x, net.linear(reshape(y, (2, 8)), "head", 5))


def densenet() -> Graph:
    net, x = Net(), image()
    y = net.conv(x, "stem", 4, 3)
    for i in range(2):
        y = concat([y, net.conv(relu(net.norm(y, f"norm{i}")), f"conv{i}", 4, 3)], 1)
    y = AvgPool((2, 2), (2, 2), ((0, 0), (0, 0)), True, False)(net.conv(relu(y), "pass", 6))
    return net.graph(x, net.linear(reduce_mean(y, (2, 3)), "head", 5))


def unet() -> Graph:
    """Down, up by a transposed convolution and by resizing, skips, one map for each class."""
    net, x = Net(), image()
    top = relu(net.conv(x, "top", 4, 3))
    low = relu(net.conv(top, "low", 8, 3, 2))
    up = concat([net.norm(net.up(low, "up", 4), "up_norm"), top], 1)
    size = Resize((8, 8), "bilinear", "half_pixel", False)(low)
    return net.graph(x, net.bias(net.conv(concat([up, size], 1), "out", 3), "out"))


def shufflenet() -> Graph:
    net, x = Net(), image(size=4)
    y = net.conv(x, "stem", 8, 3)
    h = relu(net.conv(y, "group", 8, 1, 1, 2))
    h = transpose(reshape(h, (2, 2, 4, 4, 4)), (0, 2, 1, 3, 4))
    y = add(net.conv(reshape(h, (2, 8, 4, 4)), "depthwise", 8, 3, 1, 8), y)
    return net.graph(x, net.linear(reduce_mean(y, (2, 3)), "head", 5))


def patches() -> Graph:
    """The stem of a vision transformer: patches, flattened, tokens last."""
    net, x = Net(), image()
    y = net.bias(net.conv(x, "stem", 6, 3), "stem")
    w = net.weight("patch.weight", 10, 6, 4, 4)
    y = Conv((4, 4), ((0, 0), (0, 0)), (1, 1), 1, False)(y, w)
    y = transpose(reshape(y, (2, 10, 4)), (0, 2, 1))
    return net.graph(x, net.linear(add(y, net.weight("position", 1, 4, 10)), "head", 5))


NETS = (mobilenet, resnet, densenet, unet, shufflenet, patches)


def run(graph: Graph, seed: int = 1) -> Arrays:
    """The outputs and updates for random inputs."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for value in graph.inputs:
        assert value.dtype == "f32"
        arrays[value.op.name] = rng.standard_normal(value.shape).astype(np.float32)
    result = interpret(graph, arrays)
    return {**result.outputs, **{f"new {k}": v for k, v in result.updates.items()}}


def assert_same(before: Graph, after: Graph, tolerance: float = 2e-5) -> None:
    """Both graphs give the same results, by relative error of the largest element."""
    want, got = run(before), run(after)
    assert want.keys() == got.keys()
    for name, array in want.items():
        assert got[name].shape == array.shape, name
        error = np.abs(got[name].astype(np.float64) - array).max() / (np.abs(array).max() + 1e-12)
        assert error < tolerance, f"{name}: relative error {error:.2e}"


def count(graph: Graph, *ops: type[Op]) -> int:
    return sum(isinstance(v.op, ops) for v in graph.values())
