"""Every variant of every matrix product against NumPy in float64, as two threads would run it."""

from __future__ import annotations

import ctypes
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernel_table import Poisoned, runnable_targets

from pockengine.backends.c.build import build_unit
from pockengine.backends.c.call import Call
from pockengine.backends.c.matmul_calls import matmul
from pockengine.ir.graph import Input
from pockengine.ir.op import Value
from pockengine.ir.types import Shape, TensorType
from pockengine.ops.matmul import MatMul
from pockengine.target import Target

# rows, K, columns
SHAPES = [
    *((rows, 33, 100) for rows in (1, 2, 3, 4, 5, 6, 7, 16, 29)),
    *((1, 1, 1), (1, 5, 1), (3, 1, 130), (2, 40, 3), (5, 17, 129), (8, 16, 16), (16, 3, 1025)),
    *((64, 700, 40), (100, 641, 70), (13, 320, 64), (300, 20, 9)),
]
DEEP = [(5, 700, 7), (24, 1031, 37), (37, 4099, 24), (1, 513, 1), (16, 600, 128)]

HEAD = "POCK_EXPORT void run_{}(float *x0, float *x1, float *out, float *shared, float *works)"


def products() -> list[tuple[MatMul, Shape, Shape]]:
    cases = []
    for rows, inner, columns in SHAPES:
        cases.append((MatMul(False, False), (rows, inner), (inner, columns)))
        cases.append((MatMul(False, True), (rows, inner), (columns, inner)))
    for rows, inner, columns in ((1, 512, 70), (1, 600, 7), (2, 1031, 129)):
        cases.append((MatMul(False, False), (rows, inner), (inner, columns)))
    for rows, inner, columns in (*SHAPES, *DEEP):
        cases.append((MatMul(True, False), (inner, rows), (inner, columns)))
    cases.append((MatMul(False, True), (2, 3, 20, 33), (2, 3, 50, 33)))
    cases.append((MatMul(False, False), (4, 20, 33), (33, 50)))
    cases.append((MatMul(True, False), (3, 33, 20), (3, 33, 50)))
    return cases


def two_threads(lines: tuple[str, ...], items: int, block: int, scratch: int) -> list[str]:
    """Runs `lines` over items as two threads would, each with its own workspace."""
    return [
        "for (int thread = 0; thread < 2; thread++) {",
        f"const idx begin = {items} * thread / 2, end = {items} * (thread + 1) / 2;",
        f"float *const work = works + thread * (idx){scratch};",
        f"for (idx b0 = begin; b0 < end; b0 += {block}) {{",
        f"const idx b1 = idx_min(b0 + {block}, end);",
        *lines,
        "}}",
    ]


def function(number: int, call: Call) -> str:
    lines = [HEAD.format(number), "{", "const float *const later[] = {NULL};"]
    if call.pack_items:
        lines += two_threads(call.pack, call.pack_items, 1 << 30, call.scratch)
    lines += two_threads(call.body, call.items, call.block, call.scratch)
    return "\n".join([*lines, "}"])


def calls_of(target: Target) -> list[tuple[Value, Call]]:
    values = [
        op(Input("a", TensorType("f32", a))(), Input("b", TensorType("f32", b))())
        for op, a, b in products()
    ]
    target = replace(target, threads=2)  # one has no use for some variants
    return [(v, call) for v in values for call in matmul(v, ["x0", "x1"], target)]


def check(run: object, value: Value, call: Call) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(v.shape, np.float32) for v in value.inputs)
    out, shared = Poisoned(value.shape), Poisoned(max(1, call.shared))
    works = Poisoned(max(1, 2 * call.scratch))
    run(*(x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, out.array, shared.array, works.array)))
    shared.check()
    works.check()
    want = value.op.ref(a.astype(float), b.astype(float))
    scale = np.abs(want).max() + 1e-30
    worst = np.abs(out.check() - want).max() / scale
    assert worst < 3e-5, f"{value.op} of {a.shape} and {b.shape}, {call.variant}: {worst:.1e}"


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.cpu)
def test_every_variant_of_every_product(target: Target) -> None:
    calls = calls_of(target)
    functions = [function(number, call) for number, (_, call) in enumerate(calls)]
    path = Path(tempfile.mkdtemp(), "products.so")
    build_unit("\n".join(['#include "pock.h"', *functions, ""]), target, path)
    library = ctypes.CDLL(str(path))
    for number, (value, call) in enumerate(calls):
        check(getattr(library, f"run_{number}"), value, call)


def test_variants_have_names_and_the_same_items() -> None:
    for target in runnable_targets():
        groups: dict[Value, list[Call]] = {}
        for value, call in calls_of(target):
            groups.setdefault(value, []).append(call)
        for calls in groups.values():
            assert len({c.variant for c in calls}) == len(calls)
            assert len({(c.items, c.rows) for c in calls}) == 1


@pytest.mark.parametrize(
    ("op", "a", "b", "first"),
    [
        (MatMul(False, False), (1, 512), (512, 1280), "parts"),
        (MatMul(False, False), (1, 511), (511, 1280), "few"),
        (MatMul(False, False), (2, 1024), (1024, 1280), "parts"),
        (MatMul(False, False), (2, 1023), (1023, 1280), "few"),
        (MatMul(False, False), (1, 512), (512, 40000), "few"),
        (MatMul(False, True), (8, 1280), (1000, 1280), "few"),
        (MatMul(False, True), (16, 336), (56, 336), "columns"),
        (MatMul(False, False), (49, 960), (960, 320), "columns"),
        (MatMul(False, False), (64, 192), (192, 32), "packed"),
        (MatMul(False, True), (392, 320), (960, 320), "packed"),
        (MatMul(True, False), (25088, 144), (25088, 24), "parts"),
        (MatMul(True, False), (49, 960), (49, 320), "rows"),
    ],
)
def test_the_choice_without_measuring(op: MatMul, a: Shape, b: Shape, first: str) -> None:
    value = op(Input("a", TensorType("f32", a))(), Input("b", TensorType("f32", b))())
    target = Target.named("avx512", threads=2)
    assert matmul(value, ["x0", "x1"], target)[0].variant == first


def test_one_thread_has_nobody_to_share_rows_with() -> None:
    a, b = (Input("x", TensorType("f32", shape))() for shape in ((1, 512), (512, 1280)))
    names = [
        c.variant for c in matmul(MatMul(False, False)(a, b), ["x0", "x1"], Target.named("avx512"))
    ]
    assert names[0] == "few" and "parts" not in names
