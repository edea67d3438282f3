"""Calls kernels from Python through a unit that exports a table of their addresses."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pockengine.backends.c.build import build_unit
from pockengine.backends.c.syntax import CONV_FIELDS
from pockengine.target import Target, host_name

KERNELS: dict[str, tuple[str, type | None]] = {
    "pk_pack_b": ("piiiipii", None),
    "pk_pack_panels_t": ("piipii", None),
    "pk_gemm": ("pipiipiib", None),
    "pk_gemm_tn": ("pipiiiiipibp", None),
    "pk_conv_pack": ("pppii", None),
    "pk_conv_pack_t": ("pppii", None),
    "pk_conv_rows": ("ppppiiip", None),
    "pk_conv_dx_rows": ("ppppiip", None),
    "pk_conv_dw": ("ppppiip", None),
    "pk_conv_lines": ("ppppiip", None),
    "pk_conv_dw_lines": ("ppppiip", None),
    "pk_winograd_pack": ("pbbppii", None),
    "pk_winograd_rows": ("pbpppiip", None),
    "pk_winograd_panels": ("pbbpppiip", None),
    "pk_winograd_dw": ("pbpppiip", None),
    "pk_depthwise_lines": ("ppppii", None),
    "pk_depthwise_dx_lines": ("ppppii", None),
    "pk_depthwise_dw": ("ppppiiii", None),
    **{f"pk_reduce_{name}": ("piipiiii", None) for name in ("sum", "mean", "max", "min")},
    "pk_argmax": ("piipiiii", None),
    "pk_softmax": ("pipii", None),
    "pk_softmax_grad": ("ppipii", None),
    "pk_log_softmax": ("pipii", None),
    "pk_log_softmax_grad": ("ppipii", None),
    "pk_cross_entropy": ("pppfLipii", None),
    "pk_cross_entropy_grad": ("ppppfLipii", None),
    "pk_normalize_rows": ("pifpii", None),
    "pk_normalize_rows_grad": ("ppifpii", None),
    "pk_rms_normalize_rows": ("pifpii", None),
    "pk_rms_normalize_rows_grad": ("ppifpii", None),
    "pk_add_moments": ("ppiiiip", None),
    "pk_merge_moments": ("piii", None),
    "pk_moments_mean": ("pip", None),
    "pk_moments_variance": ("piip", None),
    "pk_max_pool_lines": ("pppii", None),
    "pk_max_pool_grad_lines": ("pppppii", None),
    "pk_avg_pool_lines": ("pbppii", None),
    "pk_avg_pool_grad_lines": ("pbppii", None),
}

_TYPES = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_ssize_t,
    "b": ctypes.c_int,
    "f": ctypes.c_float,
    "L": ctypes.c_int64,
}


class Conv(ctypes.Structure):
    """pk_conv"""

    _fields_ = [(name, ctypes.c_ssize_t) for name in CONV_FIELDS]


def runnable_targets() -> list[Target]:
    """Every target whose code this machine runs, so that each vector width is tested."""
    names = {"avx512": ["avx512", "avx2", "sse"], "avx2": ["avx2", "sse"]}
    names["avx512-bf16"] = ["avx512-bf16", *names["avx512"]]
    return [Target.named(name) for name in names.get(host_name(), [host_name()])]


class Kernels:
    """The kernel library of a target; arrays are passed as themselves, numbers as numbers."""

    def __init__(self, target: Target, extra_source: str = "") -> None:
        self.target = target
        names = list(KERNELS)
        entries = ", ".join(f"(void *){name}" for name in names)
        source = (
            f'#include "pock.h"\n{extra_source}\nPOCK_EXPORT void *const table[] = {{{entries}}};\n'
        )
        folder = tempfile.mkdtemp()
        self.library = ctypes.CDLL(str(build_unit(source, target, Path(folder, "table.so"))))
        table = (ctypes.c_void_p * len(names)).in_dll(self.library, "table")
        self.functions = {
            name: ctypes.CFUNCTYPE(KERNELS[name][1], *(_TYPES[k] for k in KERNELS[name][0]))(at)
            for name, at in zip(names, table, strict=True)
        }

    def __call__(self, name: str, *arguments: object) -> object:
        return self.functions[name](*(_pass(a) for a in arguments))


def _pass(argument: object) -> object:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return argument.ctypes.data
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    return argument


@functools.cache
def kernels(target: Target) -> Kernels:
    return Kernels(target)


GUARD = 64


class Poisoned:
    """An array of NaN between two guards; `check` fails when a kernel wrote beyond it."""

    def __init__(self, shape: int | Sequence[int], dtype: type = np.float32) -> None:
        size = int(np.prod(shape))
        fill = np.nan if np.dtype(dtype).kind == "f" else 111
        self._whole = np.full(size + 2 * GUARD, fill, dtype)
        self._whole[:GUARD] = self._whole[GUARD + size :] = 77
        self.array = self._whole[GUARD : GUARD + size].reshape(shape)

    def check(self) -> np.ndarray:
        size = self.array.size
        assert (self._whole[:GUARD] == 77).all(), "wrote before the start"
        assert (self._whole[GUARD + size :] == 77).all(), "wrote past the end"
        return self.array
