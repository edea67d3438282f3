"""What the backward pass computes again, and what it keeps."""

import pytest
from nets import Net, assert_same, count

from pockengine.autodiff.reverse import gradients
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ops.attention import attention
from pockengine.ops.bits import UnpackBits
from pockengine.ops.build import add, greater, matmul, mul, reduce_mean, reduce_sum, relu
from pockengine.ops.norm import Normalize
from pockengine.ops.softmax import Softmax, SoftmaxGrad
from pockengine.passes import recompute as module
from pockengine.passes.masks import pack_masks
from pockengine.passes.prune import prune
from pockengine.passes.recompute import recompute
from pockengine.passes.simplify import simplify


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 0)


def tokens() -> Value:
    return leaf(Input, "x", TensorType("f32", (2, 32, 8)))


def trained(net: Net, x: Value, y: Value) -> Graph:
    """Outputs the sum of y, and updates every parameter to its gradient."""
    loss = reduce_sum(mul(y, y))
    params = Graph((x,), {"loss": loss}, {}, net.data).params
    updates = {p.op.name: g for p, g in gradients(loss, list(params.values())).items()}  # type: ignore[attr-defined]
    return pack_masks(prune(simplify(Graph((x,), {"loss": loss}, updates, net.data))))


def heads(net: Net, x: Value) -> Value:
    q, k, v = (net.linear(x, name, 8) for name in "qkv")
    mask = greater(matmul(x, x, transpose_b=True), 0.0)  # no row is masked altogether
    return attention(q, k, add(v, net.weight("shift", 8)), mask)


def test_probabilities_are_computed_again_next_to_their_readers() -> None:
    net, x = Net(), tokens()
    before = trained(net, x, heads(net, x))
    after = recompute(before)
    assert_same(before, after, 1e-12)
    assert (count(before, Softmax), count(after, Softmax)) == (1, 2)
    (grad,) = [v for v in after.values() if isinstance(v.op, SoftmaxGrad)]
    again = grad.inputs[1]
    forward = after.outputs["loss"]
    assert isinstance(again.op, Softmax)
    assert again not in Graph(after.inputs, {"loss": forward}, {}).values()
    masked = again.inputs[0]
    assert isinstance(masked.inputs[0].op, UnpackBits)  # the packed mask, not the forward one


def test_normalised_values_are_computed_again() -> None:
    net, x = Net(), tokens()
    h = net.linear(x, "first", 8)
    scaled = mul(Normalize((2,), 1e-5)(h), net.weight("gain", 8))
    before = trained(net, x, net.linear(add(scaled, net.weight("shift", 8)), "second", 8))
    after = recompute(before)
    assert_same(before, after, 1e-12)
    assert count(after, Normalize) > count(before, Normalize) > 0


def test_what_would_have_to_keep_more_is_kept_itself() -> None:
    """No gradient flows to q and k, so that only the probabilities are read again."""
    net, x = Net(), tokens()
    q, k = (mul(x, reduce_mean(x, (axis,), keepdims=True)) for axis in (1, 2))
    before = trained(net, x, attention(q, k, net.linear(x, "v", 8)))
    after = recompute(before)
    assert (count(before, Softmax), count(after, Softmax)) == (1, 1)


@pytest.mark.parametrize("limit", ["LEAST", "WORK"])
def test_the_limits(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net(), tokens()
    before = trained(net, x, heads(net, x))
    monkeypatch.setattr(module, limit, {"LEAST": 10**6, "WORK": 1}[limit])
    assert count(recompute(before), Softmax) == 1


def test_a_network_without_rows_stays_as_it_is() -> None:
    net, x = Net(), tokens()
    before = trained(net, x, net.linear(relu(net.linear(x, "a", 8)), "b", 8))
    assert recompute(before).values() == before.values()
