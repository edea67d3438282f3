"""Takes the gradient of a frozen norm's gain from that of the weights before it, after autodiff.

    y = conv(x, w);  z = (y - mean) * gain + bias, and dz is the gradient of z

    dw    = conv_dw(x, dz * gain)        ->  G * gain, where G = conv_dw(x, dz)
    dgain = sum of dz * (y - mean)       ->  sum of w * G - mean * sum of dz
    dx    = conv_dx(dz * gain, w)        ->  conv_dx(dz, w * gain), where w is the smaller

A convolution is linear in w: its result times dz sums up to what w times G does, channel by
channel. So the backward pass does not read y, and one tensor less is saved. This is for norms whose
mean no input decides, behind products and channels-last convolutions whose weights are trained too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pockengine.ir.graph import Graph, Input
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ops.build import mul, reshape, sub
from pockengine.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from pockengine.ops.elementwise import Mul, Sub
from pockengine.ops.matmul import MatMul
from pockengine.ops.reduce import Sum
from pockengine.ops.shape import Reshape


def gain_gradients(graph: Graph) -> Graph:
    """The graph with the gradients of such norms and of the weights before them written anew."""
    changed = {value: norm for norm in _Search(graph).norms() for value in norm.gradients}
    done: dict[Value, Value] = {}
    for value in graph.values():
        if value in changed:
            done[value] = changed[value].rewritten(value, done)
        else:
            done[value] = rebuild(value, [done[v] for v in value.inputs])
    return substitute(graph, done)


@dataclass(frozen=True)
class _Norm:
    """A norm behind `product` = conv(x, w), with the values of the header; channels come last."""

    product: Value
    mean: Value
    gain: Value
    dz: Value
    dgain: Value
    dw: Value
    dx: Value | None

    @property
    def gradients(self) -> list[Value]:
        """The values to be rewritten."""
        _, w = self.product.inputs
        cheap = self.dx is not None and w.type.size <= self.dz.type.size
        return [self.dgain, self.dw, *([self.dx] if self.dx and cheap else [])]

    def rewritten(self, value: Value, done: dict[Value, Value]) -> Value:
        """What takes the place of one of the gradients; `done` has its operands."""
        x, w = (done[v] for v in self.product.inputs)
        gain = reshape(done[self.gain], self.product.shape[-1:])
        dz = reshape(done[self.dz], self.product.shape)
        if value is self.dx:
            return value.op(dz, mul(w, gain), source=value.source)
        plain = self.dw.op(x, dz, source=self.dw.source)
        if value is self.dw:
            return mul(plain, gain)
        over = Sum(self.dgain.op.axes, self.dgain.op.keepdims)  # type: ignore[attr-defined]
        shift = mul(over(done[self.dz]), reshape(done[self.mean], value.shape))
        return sub(reshape(Sum(_leading(w), False)(mul(w, plain)), value.shape), shift)


class _Search:
    """Finds the norms of a training graph."""

    def __init__(self, graph: Graph) -> None:
        self.users = graph.users()
        self.varying: set[Value] = set()  # what an input decides
        for value in self.users:
            if isinstance(value.op, Input) or any(v in self.varying for v in value.inputs):
                self.varying.add(value)

    def norms(self) -> Iterator[_Norm]:
        for value in self.users:
            if isinstance(value.op, Sum) and isinstance(value.inputs[0].op, Mul):
                pairs = value.inputs[0].inputs
                for dz, centred in (pairs, pairs[::-1]):
                    if self.is_centred(centred, value):
                        yield from self.norm(value, dz, centred)

    def is_centred(self, value: Value, dgain: Value) -> bool:
        """Whether it is conv(x, w) - mean, which only the norm and `dgain`, a sum of rows, read."""
        if not isinstance(value.op, Sub) or len(self.users[value]) != 2:
            return False
        product, mean = _unshaped(value.inputs[0]), value.inputs[1]
        conv = isinstance(product.op, Conv) and product.op.channels_last
        plain = product.op == MatMul(False, False) and product.inputs[1].type.rank == 2
        axes = dgain.op.axes  # type: ignore[attr-defined]
        by_channel = dgain.type.size == value.shape[-1] and value.type.rank - 1 not in axes
        same = value.shape[-1] == product.shape[-1] and value.type.size == product.type.size
        vector = self.is_vector(mean, value.shape[-1]) and mean not in self.varying
        return (conv or plain) and by_channel and same and vector

    def norm(self, dgain: Value, dz: Value, centred: Value) -> Iterator[_Norm]:
        """The norm, at most one, that scales `centred`; `dz` is the gradient of what it makes."""
        product, mean = _unshaped(centred.inputs[0]), centred.inputs[1]
        x, w = product.inputs
        for gain in self.factors(centred):
            readers = [user for d in self.scaled(dz, gain) for user in self.readers(d)]
            dw = [v for v in readers if _is_weight_grad(v) and v.inputs[0] is x]
            dx = [v for v in readers if _is_input_grad(v) and v.inputs[1] is w]
            if self.is_vector(gain, centred.shape[-1]) and len(dw) == 1:
                yield _Norm(product, mean, gain, dz, dgain, dw[0], dx[0] if dx else None)

    @staticmethod
    def is_vector(value: Value, size: int) -> bool:
        return value.type.size == size == value.shape[-1]

    def factors(self, value: Value) -> list[Value]:
        """What a value is multiplied with."""
        users = [u for u in self.users[value] if isinstance(u.op, Mul)]
        return [a if b is value else b for a, b in (u.inputs for u in users)]

    def scaled(self, value: Value, factor: Value) -> list[Value]:
        """The products of the two."""
        return [u for u in self.users[value] if isinstance(u.op, Mul) and factor in u.inputs]

    def readers(self, value: Value) -> list[Value]:
        """Who reads a value, as it is or reshaped."""
        direct = self.users[value]
        return direct + [u for v in direct if isinstance(v.op, Reshape) for u in self.users[v]]


def _leading(value: Value) -> tuple[int, ...]:
    return tuple(range(value.type.rank - 1))


def _unshaped(value: Value) -> Value:
    return value.inputs[0] if isinstance(value.op, Reshape) else value


def _is_weight_grad(value: Value) -> bool:
    return isinstance(value.op, ConvWeightGrad) or value.op == MatMul(True, False)


def _is_input_grad(value: Value) -> bool:
    return isinstance(value.op, ConvInputGrad) or value.op == MatMul(False, True)
