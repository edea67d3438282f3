import numpy as np
import pytest

from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.rewrite import rebuild, rewrite, substitute, transform, with_batch
from pockengine.ir.text import print_graph
from pockengine.ir.types import BATCH, TensorType
from pockengine.ir.verify import verify
from pockengine.ops import build as b
from pockengine.ops.elementwise import Add, Exp, Mul, Neg
from pockengine.testing import check_rule

F2 = TensorType("f32", (2,))
X = leaf(Input, "x", F2)


def double_negation(value: Value) -> Value | None:
    """-(-x) -> x"""
    inner = value.inputs[0] if isinstance(value.op, Neg) else value
    return inner.inputs[0] if inner is not value and isinstance(inner.op, Neg) else None


def twice_is_a_sum(value: Value) -> Value | None:
    """x * x -> exp(log x + log x), a tree whose parts other rules may see"""
    if isinstance(value.op, Mul) and value.inputs[0] is value.inputs[1]:
        x = value.inputs[0]
        return b.exp(b.add(b.neg(b.neg(b.log(x))), b.log(x)))
    return None


def test_a_rule_runs_until_nothing_matches() -> None:
    y = X
    for _ in range(5):
        y = b.neg(y)
    after = check_rule(double_negation, Graph((X,), {"y": y}))
    assert isinstance(after.outputs["y"].op, Neg) and after.outputs["y"].inputs[0] is X


def test_a_replacement_is_rewritten_too() -> None:
    graph = Graph((X,), {"y": b.square(X)})
    after = rewrite(graph, [twice_is_a_sum, double_negation])
    assert not any(isinstance(v.op, Neg) for v in after.values())
    assert isinstance(after.outputs["y"].op, Exp)


def test_shared_values_stay_shared() -> None:
    shared = b.neg(b.neg(b.exp(X)))
    graph = Graph((X,), {"a": b.add(shared, 1.0), "b": b.mul(shared, 2.0)})
    after = check_rule(double_negation, graph)
    assert after.outputs["a"].inputs[0] is after.outputs["b"].inputs[0]


def test_what_no_rule_matches_stays_itself() -> None:
    graph = Graph((X,), {"y": b.exp(X)})
    assert rewrite(graph, [double_negation]).outputs["y"] is graph.outputs["y"]


def test_rules_without_end() -> None:
    def swap(value: Value) -> Value | None:
        return Add()(*reversed(value.inputs)) if isinstance(value.op, Add) else None

    with pytest.raises(RuntimeError, match="rules do not come to an end at "):
        rewrite(Graph((X,), {"y": b.add(X, b.exp(X))}), [swap])


def test_check_rule_refuses_what_does_not_match_or_lies() -> None:
    graph = Graph((X,), {"y": b.exp(X)})
    with pytest.raises(AssertionError, match="the rule does not match"):
        check_rule(double_negation, graph)
    with pytest.raises(AssertionError, match="y after the rule"):
        check_rule(lambda v: b.neg(v.inputs[0]) if isinstance(v.op, Exp) else None, graph)


def test_substitution_and_transformation() -> None:
    inner = b.exp(X)
    graph = Graph((X,), {"y": b.neg(inner)}, {})
    replaced = substitute(graph, {inner: X})
    assert replaced.outputs["y"].inputs[0] is X
    renamed = transform(graph, lambda v: b.log(v.inputs[0]) if v.op == Exp() else v)
    assert str(renamed.outputs["y"].inputs[0].op) == "Log()"


def test_rebuilding_keeps_the_source() -> None:
    y = Neg()(X, source="here")
    assert rebuild(y, [X]) is y
    assert rebuild(y, [b.exp(X)]).source == "here"


def test_a_batch_size_takes_the_place_of_the_symbol() -> None:
    x = leaf(Input, "x", TensorType("f32", (BATCH, 2, 3)))
    w = leaf(Param, "w", TensorType("f32", (3, 3)))
    rows = b.matmul(b.reshape(x, (2 * BATCH, 3)), w)
    y = b.add(b.reshape(rows, (BATCH, 6)), b.full((BATCH, 1), "f32", 1.0))
    y = b.slice_axis(b.concat([y, y], 0), 0, BATCH, 2 * BATCH)
    graph = with_batch(Graph((x,), {"y": y}, {}, {"w": np.eye(3, dtype=np.float32)}), 4)
    assert verify(graph).outputs["y"].shape == (4, 6)
    assert "N" not in print_graph(graph).replace("Concat", "").replace("None", "")
    assert graph.inputs[0].shape == (4, 2, 3)
    assert list(graph.data) == ["w"]
