"""Operators that have a twin in PyTorch compute what it computes, gradients included."""

from typing import Any

import numpy as np
import pytest

from pockengine.ir.op import Op, Sample
from pockengine.ops import OPS
from pockengine.ops.precision import BF16, from_bf16
from pockengine.testing import (
    assert_close,
    cotangent,
    evaluate,
    sample_gradients,
    samples_of,
)

torch = pytest.importorskip("torch")
twin_of = pytest.importorskip("twins").twin_of

TWINS = {op: twin for op in OPS.values() if (twin := twin_of(op))}


def _tensors(sample: Sample) -> list[Any]:
    """The operands; those of bf16, which a product widens by itself, as it reads them."""
    floats = [a.dtype for a in sample.arrays if a.dtype.kind == "f"]
    wide = floats[0] if floats else np.float32
    return [
        torch.tensor(from_bf16(a).astype(wide) if a.dtype == BF16 else a) for a in sample.arrays
    ]


@pytest.mark.parametrize("operator", TWINS, ids=lambda op: op.__name__)
def test_values(operator: type[Op]) -> None:
    for sample in samples_of(operator):
        theirs = TWINS[operator](sample.op, *_tensors(sample))
        if theirs is None:
            continue
        expected = theirs.numpy()
        came = evaluate(sample.op, sample.arrays)
        assert came.dtype == expected.dtype and came.shape == expected.shape, str(sample.op)
        assert_close(came, expected, f"{sample.op} and PyTorch, of {sample.arrays}")


@pytest.mark.parametrize("operator", TWINS, ids=lambda op: op.__name__)
def test_gradients(operator: type[Op]) -> None:
    for sample in samples_of(operator):
        u = cotangent(sample, np.random.default_rng(0))
        found = sample_gradients(sample, u)
        tensors = _tensors(sample)
        wanted = [tensors[place].requires_grad_() for place, _ in found]
        y = TWINS[operator](sample.op, *tensors)
        if not wanted or y is None:
            continue
        expected = torch.autograd.grad(y, wanted, torch.tensor(u), materialize_grads=True)
        for (place, came), theirs in zip(found, expected, strict=True):
            assert_close(came, theirs.numpy(), f"gradient {place} of {sample.op} and PyTorch", 1e-7)
