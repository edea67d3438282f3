"""Computes ahead what depends on nothing that changes, and moves frozen norms into frozen weights.

    conv(x, w) * scale + shift          ->  conv(x, w * scale) + shift, where w and scale are frozen
    (conv(x, w) - mean) * scale + beta  ->  conv(x, w) * scale + (beta - mean * scale), w trained
    rsqrt(var + eps) * gamma            ->  Const, where gamma and var are frozen

`changing` names the leaves that some entry point updates: trained weights, running statistics.
A trained weight is never folded, because its gradient would then be that of the product. A value is
computed ahead only where the bytes that stay in memory do not grow: no broadcast is stored, and no
folded weight beside its original. It runs before passes/layout.py, on channels-first convolutions.
"""

import hashlib
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass
from functools import partial

import numpy as np

from pockengine.ir.graph import Const, Gate, Graph, Input, Leaf, leaf, topological
from pockengine.ir.memo import ARRAYS, Memo
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import rebuild, substitute
from pockengine.ir.types import NUMPY, type_of
from pockengine.ops.build import add, mul, neg, reshape, sub
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.elementwise import Add, Mul, Sub
from pockengine.ops.matmul import MatMul

SLACK = 4096  # bytes by which a family of folded values may grow: vectors of one number a channel


def fold(graph: Graph, changing: Set[str], memo: Memo | None = None) -> Graph:
    """Folds norms into weights, then constants. Results and gradients stay, but for rounding."""
    return fold_constants(fold_scales(graph, changing), changing, memo)


def frozen_values(graph: Graph, changing: Set[str]) -> set[Value]:
    """The values that depend neither on an Input or a Gate nor on a leaf in `changing`."""
    frozen: set[Value] = set()
    for value in graph.values():
        if isinstance(value.op, Leaf):
            fixed = not isinstance(value.op, Input | Gate) and value.op.name not in changing
        else:
            fixed = all(v in frozen for v in value.inputs)
        if fixed:
            frozen.add(value)
    return frozen


# ---- scales into weights -------------------------------------------------------------------------


def fold_scales(graph: Graph, changing: Set[str]) -> Graph:
    """Moves multiplications by frozen numbers a channel into the frozen weights before them."""
    return _Scales(graph, changing).run()


class _Scales:
    """One sweep over the graph; `done` maps each old value to its new one."""

    def __init__(self, graph: Graph, changing: Set[str]) -> None:
        self.graph = graph
        self.frozen = frozen_values(graph, changing)
        self.given = frozen_values(graph, set())  # no Input: known before the step
        self.users = graph.users()
        self.roots = {*graph.outputs.values(), *graph.updates.values()}
        self.done: dict[Value, Value] = {}

    def run(self) -> Graph:
        for value in self.graph.values():
            self.done[value] = self.rewritten(value)
        return substitute(self.graph, self.done)

    def rewritten(self, value: Value) -> Value:
        # 1. y * s with s frozen: s moves towards the weight
        if isinstance(value.op, Mul):
            for y, s in (value.inputs, value.inputs[::-1]):
                fits = s in self.frozen and y not in self.given and y.type == value.type
                if fits and self.is_affine(y):
                    return self.scaled(y, self.done[s])
        kept = rebuild(value, [self.done[v] for v in value.inputs])
        # 2. (y - c) + b with c and b known before the step -> y + (b - c)
        if isinstance(kept.op, Add):
            return self.joined(value, kept)
        return kept

    def is_affine(self, y: Value) -> bool:
        """Whether y is made so that a factor can move into it, and nobody else reads it."""
        if len(self.users[y]) != 1 or y in self.roots:
            return False
        if isinstance(y.op, (Add, Sub)):
            x, c = y.inputs
            return c in self.frozen and c.type.size < y.type.size and x.type == y.type
        return self.has_frozen_weight(y)

    def has_frozen_weight(self, y: Value) -> bool:
        if not isinstance(y.op, (Conv, ConvInputGrad, MatMul)) or y.inputs[1] not in self.frozen:
            return False
        made_of = topological([y.inputs[1]])
        return all(len(self.users[v]) == 1 and v not in self.roots for v in made_of)

    def scaled(self, y: Value, s: Value) -> Value:
        """y * s, with s as near to the weight as it goes."""
        if self.is_affine(y):
            x, c = y.inputs
            if isinstance(y.op, (Add, Sub)):
                shift = mul(self.done[c], s)
                return shifted(self.scaled(x, s), shift if isinstance(y.op, Add) else neg(shift))
            weight = scaled_weight(y, self.done[c], s)
            if weight is not None:
                return y.op(self.done[x], weight, source=y.source)
        return mul(self.done[y], s)

    def joined(self, value: Value, kept: Value) -> Value:
        """(y - c) + b -> y + (b - c), where c and b are small and known before the step."""
        (old, b), (inner, new_b) = value.inputs, kept.inputs
        private = len(self.users[old]) == 1 and old not in self.roots
        if private and b in self.given and inner.type == kept.type and _small(new_b, inner):
            return shifted(inner, new_b)
        return kept


def shifted(y: Value, b: Value) -> Value:
    """y + b, as one addition if y is itself x + c or x - c with a c that no Input decides."""
    if isinstance(y.op, (Add, Sub)):
        x, c = y.inputs
        if x.type == y.type and _small(c, x) and _given(c):
            return add(x, add(b, c) if isinstance(y.op, Add) else sub(b, c))
    return add(y, b)


def _small(c: Value, x: Value) -> bool:
    return c.type.size < x.type.size


def _given(value: Value) -> bool:
    """Whether a value depends on no Input."""
    return not any(isinstance(v.op, Input) for v in topological([value]))


def scaled_weight(y: Value, w: Value, s: Value) -> Value | None:
    """The weight that gives y * s in the place of y; None if s is not one number a channel of y."""
    rank = y.type.rank
    axis = rank - 1 if isinstance(y.op, MatMul) else 1
    shape = (1,) * (rank - s.type.rank) + s.shape
    if s.type.rank > rank or any(n != 1 for a, n in enumerate(shape) if a != axis):
        return None
    count = shape[axis]
    if isinstance(y.op, MatMul):
        column = (count, 1) if y.op.transpose_b else (count,)
        return mul(w, reshape(s, column)) if w.type.rank == 2 else None
    if y.op.channels_last:  # type: ignore[attr-defined]
        return None
    ones = (1,) * (w.type.rank - 2)
    if isinstance(y.op, Conv):
        return mul(w, reshape(s, (count, 1, *ones)))
    # the channels of a transposed convolution's result are (group, C/g): w is [g * O/g, C/g, *K]
    groups = y.op.groups if count > 1 else 1  # type: ignore[attr-defined]
    split = reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    return reshape(mul(split, reshape(s, (groups, 1, count // groups, *ones))), w.shape)


# ---- constants -----------------------------------------------------------------------------------


@dataclass
class _Family:
    """Frozen values that share leaves: they are computed ahead together, or not at all."""

    results: list[Value]
    leaves: set[Value]


def fold_constants(graph: Graph, changing: Set[str], memo: Memo | None = None) -> Graph:
    """Replaces frozen values by Consts wherever the bytes that stay in memory do not grow.

    A Const is named by its contents, so that entry points which fold the same weight share it.
    `memo` keeps what was computed.
    """
    frozen = frozen_values(graph, changing)
    users = graph.users()
    roots = {*graph.outputs.values(), *graph.updates.values()}

    def stays(value: Value) -> bool:
        return value in roots or any(u not in frozen for u in users[value])

    results = [v for v in users if v in frozen and v.inputs and stays(v)]
    families = _families(results)
    chosen = [v for f in families if _pays(f, stays) for v in f.results]
    data, consts = dict(graph.data), graph.leaves(Const)
    replacements: dict[Value, Value] = {}
    for value, (name, array) in zip(chosen, _evaluate(chosen, graph, memo or Memo()), strict=True):
        data[name] = array
        replacements[value] = consts.setdefault(name, leaf(Const, name, array))
    folded = substitute(graph, replacements)
    used = folded.leaves(Leaf)
    return folded.on_data({k: v for k, v in data.items() if k in used})


def constant_name(array: Array) -> str:
    """The name of a Const: a hash of its contents and type."""
    content = array.tobytes() + str(type_of(array)).encode()
    return "const." + hashlib.sha256(content).hexdigest()[:16]


def _families(results: list[Value]) -> list[_Family]:
    """Groups values whose cones share a leaf; a value that reads no leaf is no family's."""
    families: list[_Family] = []
    for value in results:
        new = _Family([value], _leaves_of(value))
        if not new.leaves:
            continue
        for old in [f for f in families if f.leaves & new.leaves]:
            families.remove(old)
            new = _Family([*old.results, *new.results], old.leaves | new.leaves)
        families.append(new)
    return families


def _leaves_of(value: Value) -> set[Value]:
    return {v for v in topological([value]) if isinstance(v.op, Leaf)}


def _pays(family: _Family, stays: Callable[[Value], bool]) -> bool:
    freed = sum(v.type.nbytes for v in family.leaves if not stays(v))
    return sum(v.type.nbytes for v in family.results) <= freed + SLACK


def _evaluate(values: list[Value], graph: Graph, memo: Memo) -> list[tuple[str, Array]]:
    """The name and the contents of each value."""
    known: dict[Value, Array] = {}
    keys: dict[Value, Hashable] = {}  # the operators, and the very arrays that they are applied to

    def compute(value: Value) -> Array:
        if value not in known:
            if isinstance(value.op, Leaf):
                known[value] = graph.data[value.op.name]
            else:
                result = value.op.ref(*(compute(v) for v in value.inputs))
                known[value] = np.array(result, NUMPY[value.dtype], order="C")
        return known[value]

    def made(value: Value) -> tuple[str, Array, list[Array]]:
        array = compute(value)
        return constant_name(array), array, [graph.data[v.op.name] for v in _leaves_of(value)]  # type: ignore[attr-defined]

    for value in topological(values):
        own = id(graph.data[value.op.name]) if isinstance(value.op, Leaf) else str(value.op)
        keys[value] = (own, *(keys[v] for v in value.inputs))
    found = (memo.get("constant", keys[v], partial(made, v), ARRAYS) for v in values)
    return [(name, array) for name, array, _ in found]
