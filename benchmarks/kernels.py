"""Speed of the kernels on one thread, on shapes of MobileNetV2 and ResNet-50, in GFLOP/s.

    python benchmarks/kernels.py [--target avx512] [--torch]

Pooling, softmax, packing and moments are in GB/s of what they read and write.
`peak` is the register tile alone on data in the first cache. Every number is the best of several
runs. With --torch the same products and convolutions (channels last, one thread) are timed beside.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np

from pockengine.backends.c import sizes
from pockengine.backends.c.build import build_unit
from pockengine.backends.c.conv_calls import FEW_CHANNELS
from pockengine.backends.c.riding import moments_size
from pockengine.backends.c.syntax import CONV_FIELDS
from pockengine.ops.precision import to_bf16
from pockengine.panels import to_panels
from pockengine.target import Target, host_name

# rows, K, N
PRODUCTS = [
    (14, 256, 32),
    (8, 1280, 1000),
    (1, 1280, 1000),
    (8 * 112 * 112, 32, 16),
    (8 * 56 * 56, 24, 144),
    (8 * 56 * 56, 144, 24),
    (8 * 14 * 14, 96, 576),
    (8 * 14 * 14, 576, 96),
    (8 * 7 * 7, 960, 320),
    (8 * 56 * 56, 64, 256),
    (8 * 14 * 14, 1024, 256),
    (8 * 7 * 7, 2048, 512),
]
# rows, K, N
FEW_ROWS = [(1, 1280, 1000), (4, 1280, 1000), (8, 1280, 1000), (16, 112, 1280), (16, 336, 112)]
# n, size, c, o, kernel, stride
CONVOLUTIONS = [
    (4, 224, 3, 32, 3, 2),
    (4, 224, 3, 64, 7, 2),
    (4, 56, 64, 64, 3, 1),
    (4, 28, 128, 128, 3, 1),
    (4, 14, 256, 256, 3, 1),
    (4, 7, 512, 512, 3, 1),
    (4, 28, 256, 256, 3, 2),
]
# n, size, c, kernel, stride
DEPTHWISE = [
    (4, 112, 32, 3, 1),
    (4, 112, 96, 3, 2),
    (4, 56, 144, 3, 1),
    (4, 28, 192, 3, 1),
    (4, 14, 576, 3, 1),
    (4, 14, 576, 3, 2),
    (4, 7, 960, 3, 1),
    (4, 14, 240, 5, 1),
    (4, 28, 120, 5, 2),
    (4, 14, 384, 7, 1),
    (1, 14, 576, 3, 1),
]
# n, size, c, kernel, stride
POOLS = [(4, 112, 64, 3, 2), (4, 56, 64, 2, 2), (4, 28, 96, 3, 1)]
# rows, columns
SOFTMAX = [(8 * 12 * 128, 128), (128, 1000), (8, 30522)]
# K, N
PACKED = [(384, 384), (384, 1536), (1536, 384), (1280, 1000)]
# rows, K, N
BF16_PRODUCTS = [(1024, 384, 1536), (1024, 1536, 384), (8 * 14 * 14, 1024, 256), (8, 1280, 1000)]
# rows, columns
MOMENTS = [(4 * 112 * 112, 32), (4 * 56 * 56, 144), (4 * 14 * 14, 576), (4 * 7 * 7, 2048)]
KERNELS = [
    *("pk_gemm_few", "pk_gemm_few_t"),
    *("pk_pack_b", "pk_gemm", "pk_gemm_tn", "pk_conv_pack", "pk_conv_pack_t", "pk_conv_rows"),
    *("pk_conv_dx_rows", "pk_conv_dw", "pk_conv_lines", "pk_conv_dw_lines"),
    *("pk_winograd_pack", "pk_winograd_rows", "pk_winograd_panels", "pk_winograd_dw"),
    *("pk_depthwise_lines", "pk_depthwise_dx_lines", "pk_depthwise_dw"),
    *("pk_max_pool_lines", "pk_max_pool_grad_lines", "pk_softmax", "pk_softmax_grad"),
    *("pk_pack_panels_t", "pk_pack_b_bf16", "pk_turn_panels_bf16", "pk_widen", "pk_add_moments"),
    *("pk_gemm_half", "pk_gemm_tn_mixed"),
]


class Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t) for name in CONV_FIELDS]


class Operand(ctypes.Structure):
    """pk_operand: a matrix of floats or of bf16."""

    _fields_ = [("data", ctypes.c_void_p), ("ld", ctypes.c_ssize_t), ("bf16", ctypes.c_int)]

    @staticmethod
    def of(matrix: np.ndarray) -> Operand:
        return Operand(matrix.ctypes.data, matrix.shape[1], matrix.dtype == np.uint16)


class Kernels:
    """The kernel library of a target; pointers, sizes and flags all pass as 64-bit integers."""

    def __init__(self, target: Target) -> None:
        self.target = target
        kernels = [*KERNELS, *(["pk_gemm_dots"] if target.bf16_dots else [])]
        names = ", ".join(f"(void *){name}" for name in kernels)
        source = f'#include "pock.h"\nPOCK_EXPORT void *const table[] = {{{names}}};\n'
        path = build_unit(source, target, Path(tempfile.mkdtemp(), "table.so"))
        table = (ctypes.c_void_p * len(kernels)).in_dll(ctypes.CDLL(str(path)), "table")
        self.at = dict(zip(kernels, table, strict=True))

    def bind(self, name: str, *arguments: object) -> Callable[[], None]:
        words = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
        words = [ctypes.addressof(w) if isinstance(w, ctypes.Structure) else w for w in words]
        function = ctypes.CFUNCTYPE(None, *(ctypes.c_ssize_t for _ in words))(self.at[name])
        return lambda alive=arguments: function(*words)


def best(call: Callable[[], object], seconds: float = 0.25) -> float:
    """The shortest of the times of single calls within about `seconds`."""
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def zeros(*shape: int) -> np.ndarray:
    """On a boundary of 64 bytes, as in a program's arena."""
    whole = np.zeros(prod(shape) + 16, np.float32)
    start = -whole.ctypes.data % 64 // 4
    return whole[start : start + prod(shape)].reshape(shape)


def normal(*shape: int) -> np.ndarray:
    x = zeros(*shape)
    np.random.default_rng(0).standard_normal(dtype=np.float32, out=x)
    return x


def peak(k: Kernels) -> float:
    """GFLOP/s of one register tile, the loop over K being long and all in the first cache."""
    rows, inner, cols = k.target.mr * 20, 256, k.target.nr
    call = k.bind(
        "pk_gemm", normal(rows, inner), inner, normal(inner, cols), inner, cols,
        zeros(rows, cols), cols, rows, 0,
    )  # fmt: skip
    return 2e-9 * rows * inner * cols / best(call)


def product_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for rows, inner, cols in PRODUCTS:
        a, b, c = normal(rows, inner), normal(inner, cols), zeros(rows, cols)
        packed = zeros(sizes.packed_size(inner, cols, k.target))
        k.bind("pk_pack_b", b, cols, 1, inner, cols, packed, 0, sizes.panels(cols, k.target))()
        scratch = zeros(sizes.gemm_tn_scratch(cols, k.target))
        dw = zeros(inner, cols)
        times = [
            best(k.bind("pk_gemm", a, inner, packed, inner, cols, c, cols, rows, 0)),
            best(
                k.bind("pk_gemm_tn", a, inner, c, cols, 0, inner, cols, rows, dw, cols, 0, scratch)
            ),
        ]
        if torch:
            ta, tb, tc = map(torch.from_numpy, (a, b, c))
            times += [best(lambda: ta @ tb), best(lambda: ta.T @ tc)]  # noqa: B023
        yield f"{rows:6} x {inner:4} x {cols:4}", [2e-9 * rows * inner * cols / t for t in times]


def few_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    """B packed at every call, and read in place; the same for B transposed."""
    for rows, inner, cols in FEW_ROWS:
        a, b, c = normal(rows, inner), normal(inner * cols), zeros(rows, cols)
        packed = zeros(sizes.packed_size(inner, cols, k.target))
        panels = sizes.panels(cols, k.target)
        product = k.bind("pk_gemm", a, inner, packed, inner, cols, c, cols, rows, 0)
        times = []
        for kernel, steps in (("pk_gemm_few", (cols, 1)), ("pk_gemm_few_t", (1, inner))):
            pack = k.bind("pk_pack_b", b, *steps, inner, cols, packed, 0, panels)
            times += [
                best(lambda: (pack(), product())),  # noqa: B023
                best(k.bind(kernel, a, inner, b, inner, cols, c, rows, 0, cols)),
            ]
        if torch:
            ta, tb = torch.from_numpy(a), torch.from_numpy(b)
            times += [best(lambda: ta @ tb.view(inner, cols))]  # noqa: B023
            times += [best(lambda: ta @ tb.view(cols, inner).T)]  # noqa: B023
        yield f"{rows:6} x {inner:4} x {cols:4}", [2e-9 * rows * inner * cols / t for t in times]


def bf16_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    """B in panels of floats and of bf16, A in bf16 too; and aT @ c with a in bf16."""
    for rows, inner, cols in BF16_PRODUCTS:
        a, b, c, dw = (
            normal(rows, inner),
            normal(inner, cols),
            zeros(rows, cols),
            zeros(inner, cols),
        )
        panels = to_panels(b, k.target.nr)
        half_a, half_panels = to_bf16(a), to_bf16(panels)
        scratch = zeros(sizes.gemm_tn_mixed_scratch(inner, 0, cols, k.target))
        left, right = Operand.of(half_a), Operand.of(c)
        end = (inner, cols, c, cols, rows)
        calls = [
            k.bind("pk_gemm", a, inner, panels, *end, 0),
            k.bind("pk_gemm_half", a, inner, half_panels, *end),
            k.bind("pk_gemm_tn_mixed", left, right, 0, inner, cols, rows, dw, cols, scratch),
        ]
        if k.target.bf16_dots:
            calls.append(k.bind("pk_gemm_dots", half_a, inner, half_panels, *end))
        if torch:
            ta, tb = (torch.from_numpy(x).bfloat16() for x in (a, b))
            calls.append(lambda: ta @ tb)  # noqa: B023
        flops = 2e-9 * rows * inner * cols
        yield f"{rows:6} x {inner:4} x {cols:4}", [flops / best(f) for f in calls]


def packing_rows(k: Kernels) -> Iterator[tuple[str, list[float]]]:
    """The panels of b and of bT from b, of bT from the panels of b; the last two again of bf16."""
    for inner, cols in PACKED:
        b, packed = normal(inner, cols), zeros(sizes.packed_size(inner, cols, k.target))
        turned = zeros(sizes.packed_size(cols, inner, k.target))
        half, wide = to_bf16(b), zeros(inner, cols)
        panels, half_panels = (to_panels(x, k.target.nr) for x in (b, half))
        whole, across = (sizes.panels(n, k.target) for n in (cols, inner))
        calls = [
            (8, k.bind("pk_pack_b", b, cols, 1, inner, cols, packed, 0, whole)),
            (8, k.bind("pk_pack_b", b, 1, cols, cols, inner, turned, 0, across)),
            (8, k.bind("pk_pack_panels_t", panels, cols, inner, turned, 0, across)),
            (6, k.bind("pk_pack_b_bf16", half, cols, 1, inner, cols, packed, 0, whole)),
            (4, k.bind("pk_turn_panels_bf16", half_panels, cols, inner, turned, 0, across)),
            (6, k.bind("pk_widen", half, cols, inner, cols, wide)),
        ]
        yield f"{inner:4} x {cols:4}", [1e-9 * n * b.size / best(f) for n, f in calls]


def moments_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    """Mean and variance of columns, of all rows alike and with a weight for each sample."""
    for rows, cols in MOMENTS:
        x, moments, weight = normal(rows, cols), zeros(moments_size(cols)), zeros(4) + 1
        calls = [
            k.bind("pk_add_moments", x, 0, 0, 0, rows, cols, moments),
            k.bind("pk_add_moments", x, weight, rows // 4, 0, rows, cols, moments),
        ]
        if torch:
            tx = torch.from_numpy(x)
            calls.append(lambda: torch.var_mean(tx, 0, correction=0))  # noqa: B023
        yield f"{rows:6} x {cols:4}", [1e-9 * x.nbytes / best(f) for f in calls]


def conv_case(n: int, size: int, c: int, o: int, kernel: int, stride: int, groups: int):
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    g = Conv(n, size, size, c, out, out, o, kernel, kernel, stride, stride, pad, pad, 1, 1, groups)
    x, y = normal(n, size, size, c), zeros(n, out, out, o)
    return (
        g,
        x,
        normal(kernel, kernel, c // groups, o),
        y,
        2e-9 * y.size * kernel**2 * (c // groups),
    )


def conv_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for case in CONVOLUTIONS:
        n, size, c, o, kernel, stride = case
        g, x, w, y, _ = conv_case(*case, 1)
        flops, taps = 2e-9 * y.size * kernel**2 * c, kernel**2
        dx, dw = zeros(*x.shape), zeros(*w.shape)
        wp = zeros(sizes.conv_packed_size(taps, c, o, 1, k.target))
        wp_t = zeros(sizes.conv_packed_size(taps, o, c, 1, k.target))
        k.bind("pk_conv_pack", g, w, wp, 0, sizes.panels(o, k.target))()
        k.bind("pk_conv_pack_t", g, w, wp_t, 0, sizes.panels(c, k.target))()
        scratch = zeros(
            max(
                sizes.conv_rows_scratch(taps, c, 1, k.target),
                sizes.conv_dx_scratch(taps, c, o, 1, k.target),
                sizes.conv_dw_scratch(o, 1, k.target),
            )
        )
        calls = [
            k.bind("pk_conv_rows", g, x, wp, y, o, 0, n * g.oh * g.ow, scratch),
            k.bind("pk_conv_dx_rows", g, y, wp_t, dx, 0, n * size * size, scratch),
            k.bind("pk_conv_dw", g, x, y, dw, 0, taps * c, scratch),
        ]
        calls += torch_conv(torch, x, w, kernel, stride, 1) if torch else []
        yield (
            f"{n}x{size}x{size}x{c} -> {o}, {kernel}x{kernel}/{stride}",
            [flops / best(f) for f in calls],
        )


def lines_rows(k: Kernels) -> Iterator[tuple[str, list[float]]]:
    """A few channels, in place."""
    for n, size, c, o, kernel, stride in CONVOLUTIONS:
        if c <= FEW_CHANNELS:
            g, x, w, y, flops = conv_case(n, size, c, o, kernel, stride, 1)
            wp = zeros(sizes.conv_packed_size(kernel**2, c, o, 1, k.target))
            floats = sizes.conv_lines_scratch(g.ow, stride, kernel, kernel, c)
            scratch = zeros(floats + sizes.gemm_tn_scratch(o, k.target))
            calls = [
                k.bind("pk_conv_lines", g, x, wp, y, 0, n * g.oh, scratch),
                k.bind("pk_conv_dw_lines", g, x, y, w, 0, n * g.oh, scratch),
            ]
            label = f"{n}x{size}x{size}x{c} -> {o}, {kernel}x{kernel}/{stride}"
            yield label, [flops / best(f) for f in calls]


def winograd_rows(k: Kernels) -> Iterator[tuple[str, list[float]]]:
    """By the multiplications of the plain sum; y and dx with the transform of the weights."""
    for n, size, c, o, kernel, stride in CONVOLUTIONS:
        if (kernel, stride) == (3, 1):
            g, x, w, y, flops = conv_case(n, size, c, o, kernel, stride, 1)
            calls = [call for m in (2, 4) for call in winograd_calls(k, g, m, x, w, y)]
            yield f"{n}x{size}x{size}x{c} -> {o}", [flops / best(f) for f in calls]


def winograd_calls(
    k: Kernels, g: Conv, m: int, x: np.ndarray, w: np.ndarray, y: np.ndarray
) -> list[Callable[[], object]]:
    """Forward, the gradient of the input, forward by panels, and the gradient of the weight.

    The number of channels stays, so dx has the geometry of y.
    """
    u = np.zeros(sizes.winograd_packed_size(m, g.c, g.o, k.target), np.float32)
    floats = sizes.winograd_scratch(m, g.c, g.o, k.target), sizes.winograd_dw_scratch(m, k.target)
    scratch, out = np.zeros(max(floats), np.float32), np.zeros_like(y)
    rows = k.bind("pk_winograd_rows", g, m, x, u, out, 0, g.n * g.oh * g.ow, scratch)
    pack, pack_turned = (
        k.bind("pk_winograd_pack", g, m, turned, w, u, 0, sizes.panels(g.o, k.target))
        for turned in (0, 1)
    )
    tiles = g.n * -(-g.oh // m) * -(-g.ow // m)
    room = np.zeros(sizes.winograd_panels_scratch(m, tiles, g.c, k.target), np.float32)
    panels = sizes.panels(g.o, k.target)
    few = k.bind("pk_winograd_panels", g, m, 0, x, w, out, 0, panels, room)
    blocks = sizes.winograd_dw_blocks(g.c, g.o)
    dw = k.bind("pk_winograd_dw", g, m, x, y, np.zeros_like(w), 0, blocks, scratch)
    return [lambda: (pack(), rows()), lambda: (pack_turned(), rows()), few, dw]


def depthwise_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for n, size, c, kernel, stride in DEPTHWISE:
        g, x, w, y, _ = conv_case(n, size, c, c, kernel, stride, c)
        flops = 2e-9 * y.size * kernel**2
        dx, dw = zeros(*x.shape), zeros(*w.shape)
        calls = [
            k.bind("pk_depthwise_lines", g, x, w, y, 0, n * g.oh),
            k.bind("pk_depthwise_dx_lines", g, y, w, dx, 0, n * size),
            k.bind("pk_depthwise_dw", g, x, y, dw, 0, n * g.oh, 0, c),
        ]
        calls += torch_conv(torch, x, w, kernel, stride, c) if torch else []
        yield f"{n}x{size}x{size}x{c}, {kernel}x{kernel}/{stride}", [flops / best(f) for f in calls]


def torch_conv(torch, x, w, kernel: int, stride: int, groups: int) -> list[Callable[[], object]]:
    """Forward, and both gradients one by one, channels last."""
    last = torch.channels_last
    tx = torch.from_numpy(x).permute(0, 3, 1, 2)
    tw = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=last)
    fields = ((stride,) * 2, (kernel // 2,) * 2, (1, 1), False, (0, 0), groups)
    y = torch.convolution(tx, tw, None, *fields)
    backward = torch.ops.aten.convolution_backward
    return [
        lambda: torch.convolution(tx, tw, None, *fields),
        lambda: backward(y, tx, tw, None, *fields, [True, False, False]),
        lambda: backward(y, tx, tw, None, *fields, [False, True, False]),
    ]


def pool_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for n, size, c, kernel, stride in POOLS:
        g, x, _, y, _ = conv_case(n, size, c, c, kernel, stride, c)
        dx = zeros(*x.shape)
        calls = [
            k.bind("pk_max_pool_lines", g, x, y, 0, n * g.oh),
            k.bind("pk_max_pool_grad_lines", g, y, x, y, dx, 0, n * size),
        ]
        calls[0]()
        calls += torch_pool(torch, x, kernel, stride) if torch else []
        moved = [1e-9 * (x.nbytes + y.nbytes), 2e-9 * (x.nbytes + y.nbytes)] * 2
        name = f"{n}x{size}x{size}x{c}, {kernel}x{kernel}/{stride}"
        yield name, [m / best(f) for m, f in zip(moved, calls, strict=False)]


def softmax_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for rows, cols in SOFTMAX:
        x, y, dx = normal(rows, cols), zeros(rows, cols), zeros(rows, cols)
        calls = [
            k.bind("pk_softmax", x, cols, y, 0, rows),
            k.bind("pk_softmax_grad", x, y, cols, dx, 0, rows),
        ]
        calls[0]()
        calls += torch_softmax(torch, x, y) if torch else []
        moved = [2e-9 * x.nbytes, 3e-9 * x.nbytes] * 2
        yield f"{rows:6} x {cols:5}", [m / best(f) for m, f in zip(moved, calls, strict=False)]


def torch_pool(torch, x, kernel: int, stride: int) -> list[Callable[[], object]]:
    """Maximum and its gradient, channels last."""
    tx = torch.from_numpy(x).permute(0, 3, 1, 2)
    fields = ([kernel] * 2, [stride] * 2, [kernel // 2] * 2, [1, 1], False)
    dy, at = torch.ops.aten.max_pool2d_with_indices(tx, *fields)
    return [
        lambda: torch.ops.aten.max_pool2d_with_indices(tx, *fields),
        lambda: torch.ops.aten.max_pool2d_with_indices_backward(dy, tx, *fields, at),
    ]


def torch_softmax(torch, x, y) -> list[Callable[[], object]]:
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    return [
        lambda: tx.softmax(1),
        lambda: torch.ops.aten._softmax_backward_data(tx, ty, 1, torch.float32),
    ]


def table(title: str, columns: list[str], rows: Iterator[tuple[str, list[float]]]) -> None:
    print(f"\n{title:34}" + "".join(f"{c:>10}" for c in columns))
    for name, values in rows:
        print(f"{name:34}" + "".join(f"{v:10.1f}" for v in values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=host_name())
    parser.add_argument("--torch", action="store_true", help="time PyTorch beside")
    options = parser.parse_args()
    torch = None
    if options.torch:
        import torch  # noqa: PLC0415

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    k = Kernels(Target.named(options.target))
    print(f"{options.target}, one thread, GFLOP/s; peak {peak(k):.1f}")
    three = ["y", "dx", "dw"]
    beside = [f"torch {c}" for c in three] if torch else []
    table(
        "product",
        ["a@b", "aT@c", *(["torch a@b", "aT@c"] if torch else [])],
        product_rows(k, torch),
    )
    table(
        "few rows",
        [
            "pack, a@b",
            "in place",
            "pack, a@bT",
            "in place",
            *(["torch a@b", "a@bT"] if torch else []),
        ],
        few_rows(k, torch),
    )
    dots = ["dots"] if k.target.bf16_dots else []
    columns = ["f32", "bf16 b", "bf16 aT@c", *dots, *(["torch bf16"] if torch else [])]
    table("product of bf16", columns, bf16_rows(k, torch))
    columns = ["b", "bT", "turned", "bf16", "turned", "widened"]
    table("packing, GB/s", columns, packing_rows(k))
    columns = ["alike", "weighed", *(["torch"] if torch else [])]
    table("moments of columns, GB/s", columns, moments_rows(k, torch))
    table("convolution", three + beside, conv_rows(k, torch))
    table("convolution, lines in place", ["y", "dw"], lines_rows(k))
    columns = [f"F({m}) {name}" for m in (2, 4) for name in ("y", "dx", "y, panels", "dw")]
    table("3x3 convolution, Winograd", columns, winograd_rows(k))
    table("depthwise", three + beside, depthwise_rows(k, torch))
    table("max pooling, GB/s", three[:2] + beside[:2], pool_rows(k, torch))
    table("softmax, GB/s", three[:2] + beside[:2], softmax_rows(k, torch))


if __name__ == "__main__":
    sys.exit(main())
