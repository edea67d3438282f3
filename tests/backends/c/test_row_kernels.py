"""Reductions, losses, norms, pooling and copies against NumPy and the operators' references."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from kernel_table import Conv, Kernels, Poisoned, kernels, runnable_targets

from pockengine.backends.c.riding import moments_size
from pockengine.ops.loss import CrossEntropy, CrossEntropyGrad
from pockengine.ops.norm import (
    BatchMean,
    BatchVariance,
    Normalize,
    NormalizeGrad,
    RmsNormalize,
    RmsNormalizeGrad,
)
from pockengine.ops.pool import (
    AdaptiveAvgPool,
    AdaptiveAvgPoolGrad,
    AdaptiveMaxPool,
    AdaptiveMaxPoolGrad,
    AvgPool,
    AvgPoolGrad,
    MaxPool,
    MaxPoolGrad,
)

rng = np.random.default_rng(11)
COLS = [1, 2, 7, 16, 33, 64, 100, 257]


@pytest.fixture(params=runnable_targets(), ids=lambda t: t.cpu)
def k(request: pytest.FixtureRequest) -> Kernels:
    return kernels(request.param)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * (np.abs(want).max() + 1e-30)


def halves(count: int) -> list[tuple[int, int]]:
    middle = count * 2 // 5
    return [(0, middle), (middle, count)]


REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduce(k: Kernels, name: str) -> None:
    for outer, reduce, inner in itertools.product((1, 5), (1, 3, 70, 600), (1, 4, 17, 150)):
        x, out = normal(outer, reduce, inner), Poisoned((outer, inner))
        want = REDUCTIONS[name](x.astype(float), axis=1)
        for o0, o1 in halves(outer):
            k(f"pk_reduce_{name}", x, reduce, inner, out.array, o0, o1, 0, inner)
        assert np.abs(out.check() - want).max() <= 2e-6 * np.abs(x).sum(axis=1).max()
        if inner > 1:
            by_columns = Poisoned((outer, inner))
            for c0, c1 in halves(inner):
                k(f"pk_reduce_{name}", x, reduce, inner, by_columns.array, 0, outer, c0, c1)
            assert np.abs(by_columns.check() - want).max() <= 2e-6 * np.abs(x).sum(axis=1).max()


def test_extrema_keep_nan_and_argmax_takes_the_first(k: Kernels) -> None:
    for inner in (1, 20):
        x = rng.integers(0, 5, (3, 40, inner)).astype(np.float32)
        x[1, 33] = np.nan
        out, at = Poisoned((3, inner)), Poisoned((3, inner), np.int64)
        for name in ("max", "min"):
            k(f"pk_reduce_{name}", x, 40, inner, out.array, 0, 3, 0, inner)
            np.testing.assert_array_equal(out.check(), REDUCTIONS[name](x, axis=1))
        k("pk_argmax", x, 40, inner, at.array, 0, 3, 0, inner)
        np.testing.assert_array_equal(at.check(), x.argmax(axis=1))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(float) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_rows(k: Kernels, name: str, rows: int, cols: int, *arguments: object) -> np.ndarray:
    out = Poisoned((rows, cols))
    for r0, r1 in halves(rows):
        k(name, *arguments, out.array, r0, r1)
    return out.check()


@pytest.mark.parametrize("cols", COLS)
def test_softmax(k: Kernels, cols: int) -> None:
    x, dy = 5 * normal(9, cols) + 90, normal(9, cols)
    y = softmax(x)
    assert_close(by_rows(k, "pk_softmax", 9, cols, x, cols), y)
    y32, log_y = y.astype(np.float32), np.log(y).astype(np.float32)
    grad = by_rows(k, "pk_softmax_grad", 9, cols, dy, y32, cols)
    assert np.abs(grad - y * (dy - (y * dy).sum(-1, keepdims=True))).max() < 2e-6
    assert_close(by_rows(k, "pk_log_softmax", 9, cols, x, cols) - 0.0, log_y, 2e-4)
    grad = by_rows(k, "pk_log_softmax_grad", 9, cols, dy, log_y, cols)
    assert np.abs(grad - (dy - y * dy.sum(-1, keepdims=True))).max() < 3e-5
    in_place = x.copy()
    k("pk_softmax", in_place, cols, in_place, 0, 9)
    assert_close(in_place, y)


@pytest.mark.parametrize("cols", [1, 5, 100, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(k: Kernels, cols: int, smoothing: float, weighted: bool) -> None:
    x, g, labels = 4 * normal(11, cols), normal(11), rng.integers(0, cols, 11)
    labels[3] = -100
    weight = (rng.uniform(0.5, 2, cols).astype(np.float32),) if weighted else ()
    pointer = weight[0] if weighted else None
    common = (labels, pointer, smoothing, -100, cols)
    loss, dx = Poisoned(11), Poisoned((11, cols))
    k("pk_cross_entropy", x, *common, loss.array, 0, 11)
    k("pk_cross_entropy_grad", g, x, *common, dx.array, 0, 11)
    exact = [a.astype(float) for a in weight]
    op = (1, smoothing, -100)
    assert (
        np.abs(loss.check() - CrossEntropy(*op).ref(x.astype(float), labels, *exact)).max()
        < 1e-5 * 20
    )
    want = CrossEntropyGrad(*op).ref(g.astype(float), x.astype(float), labels, *exact)
    assert np.abs(dx.check() - want).max() < 1e-5


def test_a_label_that_is_no_class_gives_nan_and_reads_nothing(k: Kernels) -> None:
    x, labels = normal(3, 4), np.array([1, 4, -1])
    loss, dx = Poisoned(3), Poisoned((3, 4))
    none = -(2**63)
    k("pk_cross_entropy", x, labels, None, 0.0, none, 4, loss.array, 0, 3)
    k("pk_cross_entropy_grad", normal(3), x, labels, None, 0.0, none, 4, dx.array, 0, 3)
    assert np.isnan(loss.check()).tolist() == [False, True, True]
    assert np.isnan(dx.check()).all(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize("cols", COLS)
def test_normalize_rows(k: Kernels, cols: int) -> None:
    apart = 6 * (np.arange(cols, dtype=np.float32) % 2)  # no row has a spread near zero
    x, dy = 0.5 * normal(9, cols) + 7 + apart, normal(9, cols)
    x64, dy64, op = x.astype(float), dy.astype(float), ((1,), 1e-5)
    close = partial(assert_close, tolerance=3e-5)
    close(by_rows(k, "pk_normalize_rows", 9, cols, x, cols, 1e-5), Normalize(*op).ref(x64))
    close(by_rows(k, "pk_rms_normalize_rows", 9, cols, x, cols, 1e-5), RmsNormalize(*op).ref(x64))
    for name, grad in (("normalize", NormalizeGrad), ("rms_normalize", RmsNormalizeGrad)):
        got = by_rows(k, f"pk_{name}_rows_grad", 9, cols, dy, x, cols, 1e-5)
        want = grad(*op).ref(dy64, x64)
        assert np.abs(got - want).max() < 3e-5 * max(1, np.abs(want).max())


@pytest.mark.parametrize("cols", [1, 5, 24, 64, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_columns(k: Kernels, cols: int, weighted: bool) -> None:
    """In three parts, the last of them of padded rows; the mean is large beside the spread."""
    x = 0.3 * normal(6, 31, cols) + 50
    weight = (np.array([1, 1, 0.5, 2, 1, 0], np.float32),) if weighted else ()
    exact = [a.astype(float) for a in weight]
    size = moments_size(cols)
    parts, mean, variance = Poisoned((3, size)), Poisoned(cols), Poisoned(cols)
    parts.array[:] = 0
    for part, (row0, row1) in enumerate(((0, 40), (40, 155), (155, 186))):
        for middle in ((row0, row0 + 7), (row0 + 7, row1)):
            k("pk_add_moments", x, *(weight or (None,)), 31, *middle, cols, parts.array[part])
    k("pk_merge_moments", parts.array, 3, size, cols)
    k("pk_moments_mean", parts.array, cols, mean.array)
    assert_close(mean.check(), BatchMean((0, 1)).ref(x.astype(float), *exact))
    for biased in (False, True):
        k("pk_moments_variance", parts.array, cols, int(biased), variance.array)
        want = BatchVariance((0, 1), biased).ref(x.astype(float), *exact)
        assert_close(variance.check(), want, 2e-5)
    assert parts.check().shape == (3, size)


# window, stride, padding, dilation, size
POOLS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (6, 4)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (7, 8)),
    ((3, 2), (1, 2), ((0, 1), (1, 0)), (1, 1), (5, 5)),
    ((2, 3), (1, 2), ((1, 1), (1, 1)), (2, 1), (4, 5)),
    ((2, 2), (1, 1), ((1, 1), (1, 1)), (2, 2), (1, 1)),
]


def pool_geometry(
    n: int, size: tuple[int, int], c: int, out: tuple[int, ...], *window: object
) -> Conv:
    (kh, kw), (sh, sw), ((ph, _), (pw, _)), (dh, dw) = window or (
        (0, 0),
        (0, 0),
        ((0, 0),) * 2,
        (0, 0),
    )
    return Conv(n, *size, c, *out, c, kh, kw, sh, sw, ph, pw, dh, dw, c)


def check_max_pool(k: Kernels, g: Conv, x: np.ndarray, y_want: np.ndarray, grad) -> None:
    y, dx, dy = Poisoned(y_want.shape), Poisoned(x.shape), normal(*y_want.shape)
    for l0, l1 in halves(g.n * g.oh):
        k("pk_max_pool_lines", g, x, y.array, l0, l1)
    np.testing.assert_array_equal(y.check(), y_want)
    for l0, l1 in halves(g.n * g.h):
        k("pk_max_pool_grad_lines", g, dy, x, y_want, dx.array, l0, l1)
    assert_close(dx.check(), grad.ref(dy, x, y_want))


@pytest.mark.parametrize("c", [1, 24, 70])
def test_max_pool(k: Kernels, c: int) -> None:
    for window, stride, padding, dilation, size in POOLS:
        x = rng.integers(-3, 4, (2, *size, c)).astype(np.float32)
        fields = (window, stride, padding, dilation, True)
        y = MaxPool(*fields).ref(x)
        g = pool_geometry(2, size, c, y.shape[1:3], window, stride, padding, dilation)
        check_max_pool(k, g, x, y, MaxPoolGrad(*fields))
    x = rng.integers(-3, 4, (2, 7, 5, c)).astype(np.float32)
    y = AdaptiveMaxPool((3, 2), True).ref(x)
    check_max_pool(k, pool_geometry(2, (7, 5), c, (3, 2)), x, y, AdaptiveMaxPoolGrad(True))


def check_avg_pool(k: Kernels, g: Conv, count_padding: bool, x: np.ndarray, pool, grad) -> None:
    want = pool.ref(x.astype(float))
    y, dx, dy = Poisoned(want.shape), Poisoned(x.shape), normal(*want.shape)
    for l0, l1 in halves(g.n * g.oh):
        k("pk_avg_pool_lines", g, int(count_padding), x, y.array, l0, l1)
    for l0, l1 in halves(g.n * g.h):
        k("pk_avg_pool_grad_lines", g, int(count_padding), dy, dx.array, l0, l1)
    assert_close(y.check(), want)
    assert_close(dx.check(), grad.ref(dy.astype(float)))


@pytest.mark.parametrize("c", [1, 24])
@pytest.mark.parametrize("count_padding", [False, True])
def test_avg_pool(k: Kernels, c: int, count_padding: bool) -> None:
    for window, stride, padding, dilation, size in POOLS[:3]:
        x = normal(2, *size, c)
        fields = (window, stride, padding, count_padding, True)
        out = AvgPool(*fields).ref(x).shape[1:3]
        g = pool_geometry(2, size, c, out, window, stride, padding, dilation)
        check_avg_pool(k, g, count_padding, x, AvgPool(*fields), AvgPoolGrad(*fields, size))


@pytest.mark.parametrize("out", [(1, 1), (3, 2), (9, 5)])
def test_adaptive_avg_pool(k: Kernels, out: tuple[int, int]) -> None:
    pair = AdaptiveAvgPool(out, True), AdaptiveAvgPoolGrad((7, 5), True)
    check_avg_pool(k, pool_geometry(2, (7, 5), 24, out), False, normal(2, 7, 5, 24), *pair)
