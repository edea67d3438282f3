"""Elementary functions, random numbers and the thread pool, through small units of their own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from kernel_table import runnable_targets

from pockengine.backends.c.build import build_unit

NAMES = ["exp", "log", "log1p", "expm1", "tanh", "sigmoid", "erf"]
SOURCE = '#include "pock.h"\n' + "\n".join(
    f"POCK_EXPORT void map_{name}(const float *x, float *y, idx n) {{\n"
    f"  for (idx i = 0; i < n; i++) y[i] = pk_{name}(x[i]);\n}}"
    for name in NAMES
)
SOURCE += """
POCK_EXPORT void map_random(uint64_t seed, uint32_t step, uint32_t *bits, float *uniform, idx n) {
  for (idx i = 0; i < n; i++) {
    bits[i] = pk_random_u32(seed, (uint32_t)i, step);
    uniform[i] = pk_random_uniform(seed, (uint32_t)i, step);
  }
}

static void mark(void *ctx, int thread, idx begin, idx end) {
  int32_t *owner = ctx;
  for (idx i = begin; i < end; i++) owner[i] = owner[i] * 100 + thread + 1;
}

static pk_pool pool;

/* Each item's owner after `rounds` rounds; the rounds differ in length. */
POCK_EXPORT int run_pool(int threads, idx items, int rounds, int32_t *owner) {
  int started = pk_pool_start(&pool, threads);
  for (int r = 0; r < rounds; r++) {
    for (idx i = 0; i < items; i++) owner[i] = 0;
    pk_parallel(&pool, mark, owner, items);
    for (idx i = 0; i < items; i++) {
      if (owner[i] < 1 || owner[i] > started) return -1;
    }
  }
  pk_pool_stop(&pool);
  return started;
}
"""


@pytest.fixture(scope="module", params=runnable_targets(), ids=lambda t: t.cpu)
def unit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("math") / "math.so"
    return ctypes.CDLL(str(build_unit(SOURCE, request.param, Path(path))))


def apply(unit: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    at = ctypes.c_void_p
    getattr(unit, f"map_{name}")(at(x.ctypes.data), at(y.ctypes.data), ctypes.c_ssize_t(x.size))
    return y


def exact(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.longdouble)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    if name == "erf":
        from math import erf

        return np.array([erf(float(v)) for v in x])
    return getattr(np, name)(x)


def points(name: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-9, 1.9, 20_001)
    x = sizes * rng.choice([-1, 1], sizes.size)
    x = np.concatenate([x, np.linspace(-20, 20, 4001), np.linspace(-2, 2, 4001)])
    if name == "log":
        x = np.concatenate([10.0 ** rng.uniform(-44, 38, 20_001), np.abs(x[x != 0])])
    if name == "log1p":
        x = x[x > -1]
    return x.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_error_is_a_few_units_in_the_last_place(unit: ctypes.CDLL, name: str) -> None:
    x = points(name)
    x = x[x > -87] if name == "sigmoid" else x
    want, got = exact(name, x), apply(unit, name, x)
    if name == "erf":
        assert np.abs(got - want).max() < 1.5e-7
        return
    error = np.abs(got - want) / np.maximum(np.abs(want), np.finfo(np.float32).tiny)
    assert error.max() < 6 * np.finfo(np.float32).eps


@pytest.mark.parametrize("name", NAMES)
def test_special_values(unit: ctypes.CDLL, name: str) -> None:
    x = np.array([0.0, np.inf, -np.inf, np.nan, 200.0, -200.0, 3e38, -3e38], np.float32)
    with np.errstate(all="ignore"):
        want = exact(name, x).astype(np.float32)
        np.testing.assert_allclose(apply(unit, name, x), want, rtol=1e-6, atol=1e-38)


def test_exp_of_large_negative_numbers_is_subnormal(unit: ctypes.CDLL) -> None:
    x = np.array([-88.0, -95.0, -100.0, -103.0, -110.0], np.float32)
    np.testing.assert_allclose(apply(unit, "exp", x), np.exp(x.astype(float)), atol=1.5e-45)


def threefry(seed: int, index: np.ndarray, step: int) -> np.ndarray:
    """Written down a second time on purpose: from the definition, in Python integers."""
    mask, rotations = 0xFFFFFFFF, [13, 15, 26, 6, 17, 29, 16, 24]
    key = [seed & mask, seed >> 32, 0x1BD11BDA ^ (seed & mask) ^ (seed >> 32)]
    words = []
    for i in index:
        a, b = (int(i) + key[0]) & mask, (step + key[1]) & mask
        for r in range(20):
            a = (a + b) & mask
            b = ((b << rotations[r % 8]) | (b >> (32 - rotations[r % 8]))) & mask ^ a
            if r % 4 == 3:
                g = r // 4 + 1
                a, b = (a + key[g % 3]) & mask, (b + key[(g + 1) % 3] + g) & mask
        words.append(a)
    return np.array(words, np.uint32)


def test_random_numbers_are_threefry(unit: ctypes.CDLL) -> None:
    seed, step, count = 0x0123456789ABCDEF, 77, 1000
    bits, uniform = np.zeros(count, np.uint32), np.zeros(count, np.float32)
    at = ctypes.c_void_p
    unit.map_random(
        ctypes.c_uint64(seed),
        ctypes.c_uint32(step),
        at(bits.ctypes.data),
        at(uniform.ctypes.data),
        ctypes.c_ssize_t(count),
    )
    np.testing.assert_array_equal(bits, threefry(seed, np.arange(count), step))
    np.testing.assert_array_equal(uniform, (bits >> 8).astype(np.float32) * np.float32(2**-24))
    assert threefry(0, np.array([0]), 0)[0] == 0x6B200159  # known answer of the paper's code


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_pool_splits_statically(unit: ctypes.CDLL, threads: int) -> None:
    for items in (1, 3, 1000):
        owner = np.zeros(items, np.int32)
        at, size = ctypes.c_void_p(owner.ctypes.data), ctypes.c_ssize_t(items)
        assert unit.run_pool(threads, size, 2000, at) == threads
        team = 1 if items == 1 else threads
        want = [
            t + 1 for t in range(team) for _ in range(items * t // team, items * (t + 1) // team)
        ]
        assert owner.tolist() == want
