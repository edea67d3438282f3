"""Speed of the kernels on one thread, on shapes of MobileNetV2 and ResNet-50, in GFLOP/s.

    python benchmarks/kernels.py [--target avx512] [--torch]

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
from pathlib import Path

import numpy as np

from pockengine.backends.c import sizes
from pockengine.backends.c.build import build_unit
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
]
KERNELS = [
    *("pk_pack_b", "pk_gemm", "pk_gemm_tn", "pk_conv_pack", "pk_conv_pack_t", "pk_conv_rows"),
    *("pk_conv_dx_rows", "pk_conv_dw"),
    *("pk_depthwise_lines", "pk_depthwise_dx_lines", "pk_depthwise_dw"),
]
CONV_FIELDS = [
    *(
        "n",
        "h",
        "w",
        "c",
        "oh",
        "ow",
        "o",
        "kh",
        "kw",
        "sh",
        "sw",
        "ph",
        "pw",
        "dh",
        "dw",
        "groups",
    ),
]


class Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t) for name in CONV_FIELDS]


class Kernels:
    """The kernel library of a target; pointers, sizes and flags all pass as 64-bit integers."""

    def __init__(self, target: Target) -> None:
        self.target = target
        names = ", ".join(f"(void *){name}" for name in KERNELS)
        source = f'#include "pock.h"\nPOCK_EXPORT void *const table[] = {{{names}}};\n'
        path = build_unit(source, target, Path(tempfile.mkdtemp(), "table.so"))
        table = (ctypes.c_void_p * len(KERNELS)).in_dll(ctypes.CDLL(str(path)), "table")
        self.at = dict(zip(KERNELS, table, strict=True))

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


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def peak(k: Kernels) -> float:
    """GFLOP/s of one register tile, the loop over K being long and all in the first cache."""
    rows, inner, cols = k.target.mr * 20, 256, k.target.nr
    call = k.bind(
        "pk_gemm", normal(rows, inner), inner, normal(inner, cols), inner, cols,
        np.zeros((rows, cols), np.float32), cols, rows, 0,
    )  # fmt: skip
    return 2e-9 * rows * inner * cols / best(call)


def product_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for rows, inner, cols in PRODUCTS:
        a, b, c = normal(rows, inner), normal(inner, cols), np.zeros((rows, cols), np.float32)
        packed = np.zeros(sizes.packed_size(inner, cols, k.target), np.float32)
        k.bind("pk_pack_b", b, cols, 1, inner, cols, packed, 0, sizes.panels(cols, k.target))()
        scratch = np.zeros(sizes.gemm_tn_scratch(cols, k.target), np.float32)
        dw = np.zeros((inner, cols), np.float32)
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


def conv_case(n: int, size: int, c: int, o: int, kernel: int, stride: int, groups: int):
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    g = Conv(n, size, size, c, out, out, o, kernel, kernel, stride, stride, pad, pad, 1, 1, groups)
    x, y = normal(n, size, size, c), np.zeros((n, out, out, o), np.float32)
    return g, x, normal(kernel, kernel, c // groups, o), y, 2e-9 * y.size * kernel**2 * c // groups


def conv_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for case in CONVOLUTIONS:
        n, size, c, o, kernel, stride = case
        g, x, w, y, _ = conv_case(*case, 1)
        flops, taps = 2e-9 * y.size * kernel**2 * c, kernel**2
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        wp = np.zeros(sizes.conv_packed_size(taps, c, o, 1, k.target), np.float32)
        wp_t = np.zeros(sizes.conv_packed_size(taps, o, c, 1, k.target), np.float32)
        k.bind("pk_conv_pack", g, w, wp, 0, sizes.panels(o, k.target))()
        k.bind("pk_conv_pack_t", g, w, wp_t, 0, sizes.panels(c, k.target))()
        scratch = np.zeros(
            max(
                sizes.conv_rows_scratch(taps, c, 1, k.target),
                sizes.conv_dx_scratch(taps, c, o, 1, k.target),
                sizes.conv_dw_scratch(o, 1, k.target),
            ),
            np.float32,
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


def depthwise_rows(k: Kernels, torch: object) -> Iterator[tuple[str, list[float]]]:
    for n, size, c, kernel, stride in DEPTHWISE:
        g, x, w, y, _ = conv_case(n, size, c, c, kernel, stride, c)
        flops = 2e-9 * y.size * kernel**2
        dx, dw = np.zeros_like(x), np.zeros_like(w)
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
    table("convolution", three + beside, conv_rows(k, torch))
    table("depthwise", three + beside, depthwise_rows(k, torch))


if __name__ == "__main__":
    sys.exit(main())
