"""Error of 3x3 convolutions against float64: the plain sum, and Winograd by tiles of 2x2 and 4x4.

    python benchmarks/winograd_error.py [--target avx512] [--json]

Operands are normal random numbers. `max` is the largest error over the largest value of the result,
`rms` the root mean square of the errors over that of the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np
from kernels import Conv, Kernels, conv_case

from pockengine.backends.c import sizes
from pockengine.target import Target, host_name

# n, size, channels
CASES = [(2, 56, 64), (2, 28, 128), (4, 14, 256), (4, 7, 512)]
VARIANTS = {0: "plain", 2: "F(2x2)", 4: "F(4x4)"}
Results = dict[str, np.ndarray]


def exact(g: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Results:
    """y, dx and dw of a 3x3 convolution with padding 1, in float64."""
    xp = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    w64, dy64 = w.astype(float), dy.astype(float)
    y, dxp, dw = np.zeros(dy.shape), np.zeros_like(xp), np.zeros(w.shape)
    for i in range(3):
        for j in range(3):
            window = np.s_[:, i : i + g.h, j : j + g.w]
            y += xp[window] @ w64[i, j]
            dxp[window] += dy64 @ w64[i, j].T
            dw[i, j] = np.tensordot(xp[window], dy64, axes=([0, 1, 2], [0, 1, 2]))
    return {"y": y, "dx": dxp[:, 1:-1, 1:-1], "dw": dw}


def plain(k: Kernels, g: Conv, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Results:
    out = {"y": np.zeros_like(dy), "dx": np.zeros_like(x), "dw": np.zeros_like(w)}
    wp = np.zeros(sizes.conv_packed_size(9, g.c, g.o, 1, k.target), np.float32)
    floats = [
        sizes.conv_rows_scratch(9, g.c, 1, k.target),
        sizes.conv_dx_scratch(9, g.c, g.o, 1, k.target),
        sizes.conv_dw_scratch(g.o, 1, k.target),
    ]
    scratch, pixels = np.zeros(max(floats), np.float32), g.n * g.h * g.w
    k.bind("pk_conv_pack", g, w, wp, 0, sizes.panels(g.o, k.target))()
    k.bind("pk_conv_rows", g, x, wp, out["y"], g.o, 0, pixels, scratch)()
    k.bind("pk_conv_pack_t", g, w, wp, 0, sizes.panels(g.c, k.target))()
    k.bind("pk_conv_dx_rows", g, dy, wp, out["dx"], 0, pixels, scratch)()
    k.bind("pk_conv_dw", g, x, dy, out["dw"], 0, 9 * g.c, scratch)()
    return out


def winograd(k: Kernels, g: Conv, m: int, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Results:
    out = {"y": np.zeros_like(dy), "dx": np.zeros_like(x), "dw": np.zeros_like(w)}
    u = np.zeros(sizes.winograd_packed_size(m, g.c, g.o, k.target), np.float32)
    floats = sizes.winograd_scratch(m, g.c, g.o, k.target), sizes.winograd_dw_scratch(m, k.target)
    scratch = np.zeros(max(floats), np.float32)
    for turned, name, source in ((0, "y", x), (1, "dx", dy)):
        k.bind("pk_winograd_pack", g, m, turned, w, u, 0, sizes.panels(g.o, k.target))()
        k.bind("pk_winograd_rows", g, m, source, u, out[name], 0, g.n * g.h * g.w, scratch)()
    blocks = sizes.winograd_dw_blocks(g.c, g.o)
    k.bind("pk_winograd_dw", g, m, x, dy, out["dw"], 0, blocks, scratch)()
    return out


def rows(k: Kernels) -> list[dict[str, object]]:
    found = []
    for n, size, c in CASES:
        g, x, w, y, _ = conv_case(n, size, c, c, 3, 1, 1)
        dy = np.random.default_rng(1).standard_normal(y.shape, np.float32)
        want = exact(g, x, w, dy)
        for m, variant in VARIANTS.items():
            got = winograd(k, g, m, x, w, dy) if m else plain(k, g, x, w, dy)
            for name in want:
                error = np.abs(got[name] - want[name])
                largest, spread = np.abs(want[name]).max(), np.sqrt(np.mean(want[name] ** 2))
                found.append({
                    "shape": f"{n}x{size}x{size}x{c}", "result": name, "variant": variant,
                    "max": float(error.max() / largest),
                    "rms": float(np.sqrt(np.mean(error**2)) / spread),
                })  # fmt: skip
    return found


def print_table(found: list[dict[str, object]], write: Callable[[str], object] = print) -> None:
    head = "".join(f"{f'{v} {kind}':>13}" for v in VARIANTS.values() for kind in ("max", "rms"))
    write(f"{'':20}{head}")
    for shape, result in dict.fromkeys((r["shape"], r["result"]) for r in found):
        line = [r for r in found if (r["shape"], r["result"]) == (shape, result)]
        values = "".join(f"{r[kind]:13.1e}" for r in line for kind in ("max", "rms"))
        write(f"{f'{shape} {result}':20}{values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=host_name())
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = rows(Kernels(Target.named(options.target)))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print_table(found)


if __name__ == "__main__":
    sys.exit(main())
