"""Products and convolutions against NumPy in float64, for each vector width, at awkward shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_table import Conv, Kernels, Poisoned, kernels, runnable_targets

from pockengine.backends.c import sizes

rng = np.random.default_rng(7)


@pytest.fixture(params=runnable_targets(), ids=lambda t: t.cpu)
def k(request: pytest.FixtureRequest) -> Kernels:
    return kernels(request.param)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def assert_close(
    got: np.ndarray, want: np.ndarray, tolerance: float = 2e-6, scale: float | None = None
) -> None:
    """Equal but for rounding, relative to `scale`, or else to the largest element."""
    scale = np.abs(want).max() + 1e-30 if scale is None else scale
    assert np.abs(got - want).max() <= tolerance * scale * max(1, np.log2(got.size + 1))


def _summed(count: int) -> float:
    """The size of a sum of that many products of normal numbers: one result alone may cancel."""
    return float(np.sqrt(count))


def assert_product(got: np.ndarray, a: np.ndarray, b: np.ndarray, times: int = 1) -> None:
    """got = times * a @ b, but for rounding what is added up, which may cancel."""
    want, parts = times * (a.astype(float) @ b), times * (np.abs(a) @ np.abs(b))
    assert_close(got, want, 2e-7, float(parts.max()))


def pack(k: Kernels, b: np.ndarray, transposed: bool = False) -> np.ndarray:
    rows, cols = b.shape
    out = Poisoned(sizes.packed_size(rows, cols, k.target))
    source = np.ascontiguousarray(b.T if transposed else b)
    strides = (1, rows) if transposed else (cols, 1)
    panels = sizes.panels(cols, k.target)
    k("pk_pack_b", source, *strides, rows, cols, out.array, 0, panels // 2)
    k("pk_pack_b", source, *strides, rows, cols, out.array, panels // 2, panels)
    return out.check()


GEMM_SHAPES = [
    *itertools.product((1, 7, 14, 29), (1, 5, 33), (1, 16, 17, 100)),
    (3, 700, 40),
    (100, 641, 70),
]


@pytest.mark.parametrize("transposed", [False, True])
def test_gemm(k: Kernels, transposed: bool) -> None:
    for rows, inner, cols in GEMM_SHAPES:
        a, b = normal(rows, inner), normal(inner, cols)
        packed = pack(k, b, transposed)
        c = Poisoned((rows, cols))
        k("pk_gemm", a, inner, packed, inner, cols, c.array, cols, rows, 0)
        assert_product(c.check(), a, b)
        k("pk_gemm", a, inner, packed, inner, cols, c.array, cols, rows, 1)
        assert_product(c.check(), a, b, times=2)


def test_panels_of_the_transpose(k: Kernels) -> None:
    for rows, cols in [(1, 1), (5, 40), (16, 16), (33, 70), (70, 33), (7, 100)]:
        b = np.arange(rows * cols, dtype=np.float32).reshape(rows, cols)
        from_panels, out = pack(k, b), Poisoned(sizes.packed_size(cols, rows, k.target))
        panels = sizes.panels(rows, k.target)
        k("pk_pack_panels_t", from_panels, cols, rows, out.array, 0, panels // 2)
        rest = out.array[panels // 2 * cols * k.target.nr :]
        k("pk_pack_panels_t", from_panels, cols, rows, rest, panels // 2, panels)
        np.testing.assert_array_equal(out.check(), pack(k, np.ascontiguousarray(b.T)))


def test_gemm_of_an_empty_sum_is_zero(k: Kernels) -> None:
    c = Poisoned((3, 5))
    k("pk_gemm", normal(3, 1), 1, normal(64), 0, 5, c.array, 5, 3, 0)
    assert (c.check() == 0).all()


def test_gemm_keeps_nan_and_infinity_in_their_row(k: Kernels) -> None:
    a, b = normal(20, 9), np.abs(normal(9, 40)) + 1
    a[3, 2], a[5, 1] = np.nan, np.inf
    c = Poisoned((20, 40))
    k("pk_gemm", a, 9, pack(k, b), 9, 40, c.array, 40, 20, 0)
    assert np.isnan(c.check()[3]).all() and np.isposinf(c.array[5]).all()
    assert np.isfinite(np.delete(c.array, [3, 5], 0)).all()


@pytest.mark.parametrize("split", [0, 5])
def test_gemm_tn(k: Kernels, split: int) -> None:
    for rows, inner, cols in [*GEMM_SHAPES, (300, 600, 300)]:
        a, b = normal(inner, rows), normal(inner, cols)
        scratch = Poisoned(sizes.gemm_tn_scratch(cols, k.target))
        c = Poisoned((rows, cols))
        middle = min(split, rows)
        for accumulate in (0, 1):
            for m0, m1 in ((0, middle), (middle, rows)):
                k(
                    "pk_gemm_tn",
                    a,
                    rows,
                    b,
                    cols,
                    m0,
                    m1,
                    cols,
                    inner,
                    c.array,
                    cols,
                    accumulate,
                    scratch.array,
                )
        scratch.check()
        assert_product(c.check(), a.T, b, times=2)


# n h w c o kh kw sh sw ph pw dh dw groups, and the pads at the bottom and right
CONVS = [
    (2, 7, 9, 5, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 8, 8, 16, 33, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1),
    (2, 9, 7, 3, 8, 3, 3, 2, 2, 0, 0, 1, 1, 1, 1, 1),
    (1, 6, 6, 4, 4, 1, 1, 2, 2, 0, 0, 1, 1, 1, 0, 0),
    (1, 11, 11, 6, 9, 3, 3, 1, 1, 2, 2, 2, 2, 3, 2, 2),
    (2, 10, 12, 8, 4, 5, 3, 3, 2, 2, 1, 1, 2, 2, 1, 0),
    (1, 1, 40, 3, 5, 1, 7, 1, 3, 0, 3, 1, 1, 1, 0, 3),
    (1, 12, 12, 70, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (3, 5, 5, 300, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 16, 16, 3, 10, 16, 16, 16, 16, 0, 0, 1, 1, 1, 0, 0),
    (2, 20, 20, 4, 8, 3, 3, 1, 1, 1, 1, 1, 1, 4, 1, 1),
    (1, 3, 3, 700, 2, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0),
    (1, 2, 2, 3, 4, 3, 3, 1, 1, 2, 2, 1, 1, 1, 2, 2),
    (1, 13, 12, 3, 5, 9, 9, 1, 1, 4, 4, 1, 1, 1, 4, 4),
    (1, 1, 140, 2, 3, 1, 128, 1, 2, 0, 30, 1, 1, 1, 0, 40),
    (1, 20, 10, 2, 4, 9, 10, 3, 2, 4, 4, 2, 1, 2, 4, 4),
]
DEPTHWISE = [
    (*(2, 7, 7, c, c, s, s, t, t, s // 2, s // 2, 1, 1, c), s // 2, s // 2)
    for c, s, t in itertools.product((1, 5, 8, 16, 24, 37), (3, 5, 7), (1, 2))
] + [
    (1, 9, 9, 24, 24, 3, 3, 2, 2, 0, 0, 1, 1, 24, 1, 1),
    (1, 12, 12, 20, 20, 3, 3, 1, 1, 2, 2, 2, 2, 20, 2, 2),
    (1, 1, 30, 18, 18, 1, 5, 1, 1, 0, 4, 1, 1, 18, 0, 0),
    (1, 1, 30, 18, 18, 1, 3, 1, 2, 0, 2, 1, 1, 18, 0, 0),
    (1, 20, 19, 17, 17, 11, 9, 1, 1, 5, 4, 1, 1, 17, 5, 4),
    (1, 2, 1, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 16, 1, 1),
    (1, 8, 8, 16, 16, 3, 3, 3, 1, 1, 0, 1, 3, 16, 1, 5),
    (1, 1, 200, 24, 24, 1, 101, 1, 1, 0, 50, 1, 1, 24, 0, 50),
    (1, 80, 3, 20, 20, 70, 1, 1, 1, 35, 0, 1, 1, 20, 34, 0),
    (2, 12, 13, 40, 40, 9, 9, 2, 2, 4, 4, 1, 1, 40, 4, 4),
    (2, 1, 37, 33, 33, 1, 5, 1, 2, 0, 2, 1, 1, 33, 0, 2),
    (2, 9, 9, 18, 18, 4, 6, 2, 3, 1, 2, 1, 1, 18, 1, 2),
    (1, 9, 9, 18, 18, 3, 3, 2, 2, 2, 2, 3, 2, 18, 2, 2),
    (1, 3, 3, 18, 18, 7, 7, 1, 1, 3, 3, 1, 1, 18, 3, 3),
    (1, 11, 11, 32, 32, 2, 2, 2, 2, 0, 0, 1, 1, 32, 0, 0),
    (1, 5, 30, 16, 16, 5, 5, 1, 2, 4, 4, 1, 1, 16, 1, 1),
    (1, 30, 5, 16, 16, 5, 5, 2, 1, 4, 4, 1, 1, 16, 1, 1),
    (1, 6, 6, 16, 16, 3, 3, 2, 2, 5, 5, 1, 1, 16, 5, 5),
]


def geometry(case: tuple[int, ...]) -> Conv:
    n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups, bottom, right = case
    oh = (h + ph + bottom - (kh - 1) * dh - 1) // sh + 1
    ow = (w + pw + right - (kw - 1) * dw - 1) // sw + 1
    return Conv(n, h, w, c, oh, ow, o, kh, kw, sh, sw, ph, pw, dh, dw, groups)


def conv_taps(g: Conv):
    """For each tap: the tap, and matching slices of the padded input and of the output."""
    for kh, kw in itertools.product(range(g.kh), range(g.kw)):
        rows = slice(kh * g.dh, kh * g.dh + (g.oh - 1) * g.sh + 1, g.sh)
        cols = slice(kw * g.dw, kw * g.dw + (g.ow - 1) * g.sw + 1, g.sw)
        yield (kh, kw), rows, cols


def padded(g: Conv, x: np.ndarray) -> np.ndarray:
    size = ((g.oh - 1) * g.sh + (g.kh - 1) * g.dh + 1, (g.ow - 1) * g.sw + (g.kw - 1) * g.dw + 1)
    out = np.zeros((g.n, max(size[0], g.h + g.ph), max(size[1], g.w + g.pw), g.c))
    out[:, g.ph : g.ph + g.h, g.pw : g.pw + g.w] = x
    return out


def reference(g: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray):
    """y, dx, dw in float64; w is [kh, kw, c / groups, o]."""
    split = (g.groups, -1)
    xp, w64 = padded(g, x), w.astype(float).reshape(g.kh, g.kw, g.c // g.groups, *split)
    dyg = dy.astype(float).reshape(*dy.shape[:3], *split)
    y, dxp, dw = np.zeros(dyg.shape), np.zeros(xp.shape), np.zeros(w64.shape)
    for tap, rows, cols in conv_taps(g):
        part = xp[:, rows, cols].reshape(*dyg.shape[:3], *split)
        y += np.einsum("nhwgc,cgo->nhwgo", part, w64[tap])
        dw[tap] = np.einsum("nhwgc,nhwgo->cgo", part, dyg)
        dxp[:, rows, cols] += np.einsum("nhwgo,cgo->nhwgc", dyg, w64[tap]).reshape(
            xp[:, rows, cols].shape
        )
    dx = dxp[:, g.ph : g.ph + g.h, g.pw : g.pw + g.w]
    return y.reshape(dy.shape), dx, dw.reshape(w.shape)


def conv_case(case: tuple[int, ...]):
    g = geometry(case)
    x, dy = normal(g.n, g.h, g.w, g.c), normal(g.n, g.oh, g.ow, g.o)
    w = normal(g.kh, g.kw, g.c // g.groups, g.o)
    return g, x, w, dy, reference(g, x, w, dy)


def halves(count: int) -> list[tuple[int, int]]:
    middle = count * 2 // 5
    return [(0, middle), (middle, count)]


def conv_pack(k: Kernels, g: Conv, w: np.ndarray, transposed: bool) -> np.ndarray:
    c, o = (g.o, g.c) if transposed else (g.c, g.o)
    out = Poisoned(sizes.conv_packed_size(g.kh * g.kw, c, o, g.groups, k.target))
    for p0, p1 in halves(g.groups * sizes.panels(o // g.groups, k.target)):
        k("pk_conv_pack_t" if transposed else "pk_conv_pack", g, w, out.array, p0, p1)
    return out.check()


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv(k: Kernels, case: tuple[int, ...]) -> None:
    g, x, w, dy, (y_want, dx_want, dw_want) = conv_case(case)
    taps = g.kh * g.kw
    y, scratch = (
        Poisoned(y_want.shape),
        Poisoned(sizes.conv_rows_scratch(taps, g.c, g.groups, k.target)),
    )
    wp = conv_pack(k, g, w, transposed=False)
    for r0, r1 in halves(g.n * g.oh * g.ow):
        k("pk_conv_rows", g, x, wp, y.array, g.o, r0, r1, scratch.array)
    scratch.check()
    assert_close(y.check(), y_want)

    scratch = Poisoned(sizes.conv_dx_scratch(taps, g.c, g.o, g.groups, k.target))
    dx, wp_t = Poisoned(dx_want.shape), conv_pack(k, g, w, transposed=True)
    for r0, r1 in halves(g.n * g.h * g.w):
        k("pk_conv_dx_rows", g, dy, wp_t, dx.array, r0, r1, scratch.array)
    scratch.check()
    assert_close(dx.check(), dx_want)

    dw, scratch = Poisoned(dw_want.shape), Poisoned(sizes.conv_dw_scratch(g.o, g.groups, k.target))
    for r0, r1 in halves(taps * g.c // g.groups):
        k("pk_conv_dw", g, x, dy, dw.array, r0, r1, scratch.array)
    scratch.check()
    assert_close(dw.check(), dw_want)


@pytest.mark.parametrize("case", [c for c in CONVS if c[12:14] == (1, 1)], ids=str)
def test_conv_lines(k: Kernels, case: tuple[int, ...]) -> None:
    g, x, w, dy, (y_want, _, dw_want) = conv_case(case)
    y, wp = Poisoned(y_want.shape), conv_pack(k, g, w, transposed=False)
    floats = sizes.conv_lines_scratch(g.ow, g.sw, g.kh, g.kw, g.c)
    dw, scratch = (
        np.zeros(dw_want.shape),
        Poisoned(floats + sizes.gemm_tn_scratch(g.o, k.target)),
    )
    for l0, l1 in [(0, 0), *halves(g.n * g.oh)]:
        k("pk_conv_lines", g, x, wp, y.array, l0, l1, scratch.array)
        part = Poisoned(dw_want.shape)
        k("pk_conv_dw_lines", g, x, dy, part.array, l0, l1, scratch.array)
        dw += part.check()
    scratch.check()
    assert_close(y.check(), y_want)
    assert_close(dw, dw_want)


WINOGRAD = [
    (2, 7, 7, 5, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (3, 14, 9, 16, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 30, 29, 40, 70, 3, 3, 1, 1, 0, 0, 1, 1, 1, 0, 0),
    (2, 1, 2, 3, 4, 3, 3, 1, 1, 2, 2, 1, 1, 1, 2, 2),
    (1, 8, 13, 17, 9, 3, 3, 1, 1, 2, 0, 1, 1, 1, 1, 2),
    (5, 12, 12, 100, 130, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 3, 3, 1, 1, 3, 3, 1, 1, 0, 0, 1, 1, 1, 0, 0),
    (2, 5, 4, 150, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1),
]
WINOGRAD_TOLERANCE = {2: 2e-6, 4: 4e-6}


def winograd(k: Kernels, g: Conv, m: int, x: np.ndarray, w: np.ndarray, turned: int) -> np.ndarray:
    u = Poisoned(sizes.winograd_packed_size(m, g.c, g.o, k.target))
    for p0, p1 in halves(sizes.panels(g.o, k.target)):
        k("pk_winograd_pack", g, m, turned, w, u.array, p0, p1)
    u.check()
    y = Poisoned((g.n, g.oh, g.ow, g.o))
    scratch = Poisoned(sizes.winograd_scratch(m, g.c, g.o, k.target))
    for line0, line1 in halves(g.n * g.oh):
        k("pk_winograd_rows", g, m, x, u.array, y.array, line0 * g.ow, line1 * g.ow, scratch.array)
    scratch.check()
    return y.check()


def winograd_panels(k: Kernels, g: Conv, m: int, x: np.ndarray, w: np.ndarray, turned: int):
    y, tiles = Poisoned((g.n, g.oh, g.ow, g.o)), g.n * -(-g.oh // m) * -(-g.ow // m)
    scratch = Poisoned(sizes.winograd_panels_scratch(m, tiles, g.c, k.target))
    for p0, p1 in halves(sizes.panels(g.o, k.target)):
        k("pk_winograd_panels", g, m, turned, x, w, y.array, p0, p1, scratch.array)
    scratch.check()
    return y.check()


def exchanged(g: Conv) -> Conv:
    """The convolution from y to x that the gradient of x is."""
    sides = (g.n, g.oh, g.ow, g.o, g.h, g.w, g.c)
    return Conv(*sides, 3, 3, 1, 1, 2 - g.ph, 2 - g.pw, 1, 1, 1)


@pytest.mark.parametrize("m", WINOGRAD_TOLERANCE)
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd(k: Kernels, case: tuple[int, ...], m: int) -> None:
    g, x, w, dy, (y_want, dx_want, dw_want) = conv_case(case)
    tolerance = WINOGRAD_TOLERANCE[m]
    y_scale, dx_scale, dw_scale = (_summed(n) for n in (9 * g.c, 9 * g.o, g.n * g.oh * g.ow))
    for kernel in (winograd, winograd_panels):
        assert_close(kernel(k, g, m, x, w, 0), y_want, tolerance, y_scale)
        assert_close(kernel(k, exchanged(g), m, dy, w, 1), dx_want, tolerance, dx_scale)
    dw, scratch = Poisoned(dw_want.shape), Poisoned(sizes.winograd_dw_scratch(m, k.target))
    for b0, b1 in halves(sizes.winograd_dw_blocks(g.c, g.o)):
        k("pk_winograd_dw", g, m, x, dy, dw.array, b0, b1, scratch.array)
    scratch.check()
    assert_close(dw.check(), dw_want, tolerance, dw_scale)


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise(k: Kernels, case: tuple[int, ...]) -> None:
    g, x, w, dy, (y_want, dx_want, dw_want) = conv_case(case)
    y, dx, dw = Poisoned(y_want.shape), Poisoned(dx_want.shape), np.zeros(dw_want.shape)
    for l0, l1 in halves(g.n * g.oh):
        k("pk_depthwise_lines", g, x, w, y.array, l0, l1)
        part = Poisoned(dw_want.shape)
        for c0, c1 in halves(g.c):
            k("pk_depthwise_dw", g, x, dy, part.array, l0, l1, c0, c1)
        dw += part.check()
    for l0, l1 in halves(g.n * g.h):
        k("pk_depthwise_dx_lines", g, dy, w, dx.array, l0, l1)
    assert_close(y.check(), y_want)
    assert_close(dx.check(), dx_want)
    assert_close(dw, dw_want)
