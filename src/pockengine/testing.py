"""Checks that everybody who adds an operator, a rule or a graph can call; our own tests do.

    check_op(Exp)                  every law on every sample of the operator
    check_rule(rule, graph)        rewriting keeps the meaning
    check_graph(graph)             typed, printable, and computes what its types say

A law takes one `Sample` and raises AssertionError; LAWS lists them. Gradients are checked in
float64 along one random direction for each input, so that the cost does not grow with the size.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pockengine.autodiff.reverse import gradients
from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, Leaf, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Op, Sample, Value
from pockengine.ir.rewrite import Rule, rewrite
from pockengine.ir.text import parse_graph, print_graph
from pockengine.ir.types import NUMPY, DType, TensorType, type_of
from pockengine.ir.verify import verify
from pockengine.ops import OPS
from pockengine.ops.build import add, mul, reduce_sum

Law = Callable[[Sample], None]

STEP = 1e-6  # of the central difference
TOLERANCE = 1e-6  # relative, of gradients; values must agree to 1e-9


def samples_of(operator: type[Op], dtype: DType = "f64", seed: int = 0) -> list[Sample]:
    """The operator's samples, their floating-point arrays in one precision."""
    return [in_precision(s, dtype) for s in operator.samples(np.random.default_rng(seed))]


def in_precision(sample: Sample, dtype: DType) -> Sample:
    """The sample with its floating-point arrays as `dtype`."""
    return replace(sample, arrays=tuple(_as(dtype, a) for a in sample.arrays))


def _as(dtype: DType, array: Array) -> Array:
    array = np.asarray(array)
    return array.astype(NUMPY[dtype]) if array.dtype.kind == "f" else array


def sample_graph(sample: Sample) -> Graph:
    """The graph y = op(x0, x1, ...) whose inputs have the types of the sample's arrays."""
    inputs = _inputs(sample)
    return Graph(tuple(inputs), {"y": sample.op(*inputs)})


def named(arrays: Sequence[Array]) -> dict[str, Array]:
    """A sample's arrays under the names of `sample_graph`."""
    return {f"x{i}": a for i, a in enumerate(arrays)}


def evaluate(op: Op, arrays: Sequence[Array]) -> Array:
    """What `ref` computes, infinities and NaN without a warning."""
    with np.errstate(all="ignore"):
        return np.asarray(op.ref(*arrays))


def assert_close(actual: Array, expected: Array, what: str, tolerance: float = 1e-9) -> None:
    """Equal but for rounding, relative to the largest finite element; NaN equals NaN."""
    finite = np.abs(expected[np.isfinite(expected)]) if expected.dtype.kind == "f" else np.zeros(1)
    atol = tolerance * float(finite.max(initial=0.0))
    np.testing.assert_allclose(actual, expected, tolerance, atol, equal_nan=True, err_msg=what)


# ---- laws ----------------------------------------------------------------------------------------


def law_text(sample: Sample) -> None:
    """Printing and parsing give the same graph."""
    graph = sample_graph(sample)
    text = print_graph(graph)
    known = {**OPS, type(sample.op).__name__: type(sample.op)}
    again = parse_graph(text, known)
    assert print_graph(again) == text, f"the text changed:\n{text}{print_graph(again)}"
    assert repr(again.outputs["y"].op) == repr(sample.op), f"{sample.op} became another operator"


def law_type(sample: Sample) -> None:
    """`infer` gives the shape and dtype of `ref`, in both precisions."""
    for dtype in ("f64", "f32"):
        arrays = in_precision(sample, dtype).arrays
        inferred = sample.op.infer(*map(type_of, arrays))
        came = type_of(evaluate(sample.op, arrays))
        assert inferred == came, f"{sample.op} infers {inferred} but computes {came} from {dtype}"


def law_gradient(sample: Sample) -> None:
    """<vjp(u), v> = the derivative of <u, f> in direction v, for random u and v."""
    rng = np.random.default_rng(1)
    u = cotangent(sample, rng)
    for place, gradient in sample_gradients(sample, u):
        v = np.asarray(rng.standard_normal(gradient.shape))
        expected = float(np.sum(u * _central_difference(sample, place, v)))
        came = float(np.sum(gradient * v))
        what = f"gradient of {sample.op} for input {place}"
        scale = max(1.0, float(np.abs(gradient * v).sum()))
        assert abs(came - expected) <= TOLERANCE * scale, f"{what}: {came}, differences {expected}"


def law_fan_out(sample: Sample) -> None:
    """Gradients of two readers of the same value are added."""
    rng = np.random.default_rng(2)
    u, w = cotangent(sample, rng), cotangent(sample, rng)
    first, second = dict(sample_gradients(sample, u)), dict(sample_gradients(sample, w))
    for place, both in sample_gradients(sample, u, w):
        what = f"two readers of input {place} of {sample.op}"
        assert_close(both, first[place] + second[place], what)


def law_same_input(sample: Sample) -> None:
    """The gradient of f(x, x) is the sum of those of f(a, b) at a = b = x."""
    places = differentiable(sample)
    first = next(iter(places), 0)
    twins = [p for p in places if sample.arrays[p].shape == sample.arrays[first].shape]
    if len(twins) < 2:
        return
    arrays = tuple(sample.arrays[first] if i in twins else a for i, a in enumerate(sample.arrays))
    at_x = replace(sample, arrays=arrays)
    inputs = _inputs(at_x)
    shared = [inputs[first] if i in twins else v for i, v in enumerate(inputs)]
    u = cotangent(at_x, np.random.default_rng(3))
    total = _against(sample.op(*shared), 0)
    gradient = gradients(total, [inputs[first]])[inputs[first]]
    came = interpret(Graph((), {"d": gradient}), {**named(arrays), "u0": u}).outputs["d"]
    parts = dict(sample_gradients(at_x, u))
    expected = np.asarray(sum(parts[p] for p in twins))
    assert_close(came, expected, f"{sample.op} with one value as inputs {twins}")


def law_one_of_all(sample: Sample) -> None:
    """Asking for one gradient gives that entry of all."""
    u = cotangent(sample, np.random.default_rng(4))
    for place, gradient in sample_gradients(sample, u):
        alone = dict(sample_gradients(replace(sample, differentiable=(place,)), u))
        assert_close(alone[place], gradient, f"input {place} of {sample.op} alone")


def law_elementwise(sample: Sample) -> None:
    """Some of the broadcast elements, in any order, give those elements of the result."""
    if not sample.op.elementwise:
        return
    arrays = np.broadcast_arrays(*sample.arrays)
    size = arrays[0].size
    order = np.random.default_rng(5).permutation(size)[: (size + 1) // 2]
    mixed = evaluate(sample.op, [a.ravel()[order] for a in arrays])
    expected = evaluate(sample.op, sample.arrays).ravel()[order]
    np.testing.assert_array_equal(mixed, expected, f"{sample.op} is not elementwise")


def law_commutative(sample: Sample) -> None:
    """f(a, b) = f(b, a)"""
    if sample.op.commutative:
        one, other = (evaluate(sample.op, sample.arrays[::turn]) for turn in (1, -1))
        np.testing.assert_array_equal(one, other, f"{sample.op} is not commutative")


def law_linear(sample: Sample) -> None:
    """f(2 u - 3 v) = 2 f(u) - 3 f(v) in each input claimed, the others held fixed."""
    rng = np.random.default_rng(6)
    for place in sample.op.linear_in:
        u = sample.arrays[place]
        if u.dtype.kind != "f":
            continue
        v = np.asarray(rng.standard_normal(u.shape))
        points: list[Array] = [u, v, np.asarray(2 * u - 3 * v)]
        f_u, f_v, f_both = (evaluate(sample.op, _put(sample, place, x)) for x in points)
        if np.isfinite(f_u).all():
            assert_close(f_both, 2 * f_u - 3 * f_v, f"{sample.op} is not linear in input {place}")


def law_slices(sample: Sample) -> None:
    """A slice of the result comes from the slices of the inputs that `slice_axes` names."""
    rng = np.random.default_rng(7)
    whole, types = evaluate(sample.op, sample.arrays), [type_of(a) for a in sample.arrays]
    for axis, size in enumerate(whole.shape):
        axes = sample.op.slice_axes(axis, *types)
        if axes is None or size == 0:
            continue
        indices = rng.permutation(size)[: (size + 1) // 2]
        inputs = [
            a if own is None else np.take(a, indices, own)
            for a, own in zip(sample.arrays, axes, strict=True)
        ]
        op = sample.op.on_sliced(axis, len(indices), *types)
        what = f"{sample.op} sliced along axis {axis} by inputs' axes {axes}"
        inferred = op.infer(*map(type_of, inputs))
        assert inferred.shape[axis] == len(indices), f"{what} infers {inferred}"
        assert_close(evaluate(op, inputs), np.take(whole, indices, axis), what)


LAWS: tuple[Law, ...] = (
    law_text,
    law_type,
    law_gradient,
    law_fan_out,
    law_same_input,
    law_one_of_all,
    law_elementwise,
    law_commutative,
    law_linear,
    law_slices,
)


def check_op(operator: type[Op], laws: Sequence[Law] = LAWS) -> None:
    """All laws on all samples, and all errors, of an operator. Raises AssertionError in words."""
    samples = samples_of(operator)
    assert len(samples) >= 3, f"{operator.__name__} has {len(samples)} samples; write three or more"
    assert operator.__doc__, f"{operator.__name__} has no docstring; write its formula and shapes"
    for sample in samples:
        for law in laws:
            law(sample)
    check_errors(operator)


def check_errors(operator: type[Op]) -> None:
    """Each of the operator's `errors` is refused by `infer`, with the words that it names."""
    for error in operator.errors():
        try:
            inferred = error.op.infer(*error.types)
        except GraphError as refusal:
            text = str(refusal)
        else:
            raise AssertionError(f"{error.op} accepts {error.types} as {inferred}")
        assert error.message in text, f"expected {error.message!r} in the message {text!r}"
        assert operator.__name__ in text, f"the message does not name the operator: {text!r}"


# ---- gradients of samples ------------------------------------------------------------------------


def differentiable(sample: Sample) -> tuple[int, ...]:
    """The inputs whose gradients are checked: none when the operator has no gradient at all."""
    if type(sample.op).vjp is Op.vjp or not _result_type(sample).is_float:
        return ()
    if sample.differentiable is not None:
        return sample.differentiable
    return tuple(i for i, a in enumerate(sample.arrays) if a.dtype.kind == "f")


def _result_type(sample: Sample) -> TensorType:
    return sample.op.infer(*map(type_of, sample.arrays))


def cotangent(sample: Sample, rng: np.random.Generator) -> Array:
    """A random gradient of the sample's result."""
    type_ = _result_type(sample)
    return np.asarray(rng.standard_normal(type_.shape)).astype(NUMPY[type_.dtype])


def sample_gradients(sample: Sample, *cotangents: Array) -> list[tuple[int, Array]]:
    """(input, its gradient) of the sum over readers of <cotangent, f>; zeros for a rule's None."""
    places = differentiable(sample)
    if not places:
        return []
    inputs = _inputs(sample)
    parts = [_against(sample.op(*inputs), k) for k in range(len(cotangents))]
    found = gradients(functools.reduce(add, parts), [inputs[p] for p in places])
    graph = Graph((), {f"d{p}": found[inputs[p]] for p in places if inputs[p] in found})
    given = {f"u{k}": u for k, u in enumerate(cotangents)}
    arrays = interpret(graph, {**named(sample.arrays), **given}).outputs
    zeros = [(p, np.zeros_like(sample.arrays[p])) for p in places]
    return [(p, arrays.get(f"d{p}", zero)) for p, zero in zeros]


def _inputs(sample: Sample) -> list[Value]:
    return [leaf(Input, f"x{i}", a) for i, a in enumerate(sample.arrays)]


def _against(y: Value, number: int) -> Value:
    """<u, y>, with u the cotangent of that number"""
    return reduce_sum(mul(y, leaf(Input, f"u{number}", y.type)))


def _put(sample: Sample, place: int, array: Array) -> list[Array]:
    return [array if i == place else a for i, a in enumerate(sample.arrays)]


def _central_difference(sample: Sample, place: int, direction: Array) -> Array:
    x = sample.arrays[place]
    above, below = (
        evaluate(sample.op, _put(sample, place, x + step * direction)) for step in (STEP, -STEP)
    )
    return np.asarray((above - below) / (2 * STEP))


# ---- graphs and rules ----------------------------------------------------------------------------


def random_arrays(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Something for every leaf that has no data: normal numbers, integers 0 and 1, coin flips."""
    rng = np.random.default_rng(seed)
    missing = (op for v in graph.values() if isinstance(op := v.op, Leaf))
    return {op.name: _draw(rng, op.type) for op in missing if op.name not in graph.data}


def _draw(rng: np.random.Generator, type_: TensorType) -> Array:
    values = rng.standard_normal(type_.shape) if type_.is_float else rng.integers(0, 2, type_.shape)
    return np.asarray(values).astype(NUMPY[type_.dtype])


def check_graph(graph: Graph, arrays: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Verified, the same after printing and parsing, of the types it says. Returns its outputs.

    `arrays` gives inputs, by name; the others are drawn at random.
    """
    verify(graph)
    text = print_graph(graph)
    parsed = parse_graph(text, OPS, graph.data)
    assert print_graph(parsed) == text, f"printing and parsing changed the graph\n{text}"
    given = {**random_arrays(graph), **(arrays or {})}
    outputs = interpret(graph, given).outputs
    for name, array in interpret(parsed, given).outputs.items():
        assert type_of(array) == graph.outputs[name].type, f"{name} is {type_of(array)}"
        np.testing.assert_array_equal(array, outputs[name], f"{name} of the parsed graph")
    return outputs


def check_rule(
    rule: Rule, graph: Graph, arrays: Mapping[str, Array] | None = None, tolerance: float = 1e-5
) -> Graph:
    """`rule` changes `graph`, and not what it computes. Returns the new graph."""
    after = verify(rewrite(graph, [rule]))
    assert print_graph(after) != print_graph(graph), f"the rule does not match:\n{graph}"
    given = {**random_arrays(graph), **(arrays or {})}
    expected = interpret(graph, given)
    came = interpret(after, given)
    for name, array in {**expected.outputs, **expected.updates}.items():
        now = {**came.outputs, **came.updates}[name]
        assert_close(now, array, f"{name} after the rule\n{print_graph(after)}", tolerance)
    return after
