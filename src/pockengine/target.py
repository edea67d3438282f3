"""What a program is compiled for: a back end, a machine, and how much of it may be used."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pockengine.errors import InputError

Backend = Literal["c", "numpy"]
_DOTS = "+avx512bf16"

# name -> triple and CPU as `zig cc` spells them, floats in a vector, rows of the register tile.
# The tile fills the machine's vector registers: 32 of them on AVX-512 and NEON, 16 on the others.
_MACHINES: dict[str, tuple[str, str, int, int]] = {
    "avx512-bf16": ("x86_64-linux-gnu", f"x86_64_v4{_DOTS}", 16, 14),
    "avx512": ("x86_64-linux-gnu", "x86_64_v4", 16, 14),
    "avx2": ("x86_64-linux-gnu", "x86_64_v3", 8, 6),
    "sse": ("x86_64-linux-gnu", "x86_64_v2", 4, 6),
    "neon-linux": ("aarch64-linux-gnu", "generic", 4, 12),
    "neon-macos": ("aarch64-macos", "apple_m1", 4, 12),
}
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AVX2 = {"avx2", "fma", "bmi1", "bmi2", "movbe"}


@dataclass(frozen=True)
class Target:
    """A machine and the share of it that a program may use.

    `triple` and `cpu` are as `zig cc` spells them, `mr` is the height of the register tile, and
    `memory_budget` is in bytes. Made by `Target.host()` or `Target.named(...)`.
    """

    backend: Backend
    triple: str
    cpu: str
    vector_width: int
    mr: int
    threads: int = 1
    memory_budget: int | None = None

    @property
    def nr(self) -> int:
        """Columns in a panel of a packed matrix."""
        return 2 * self.vector_width

    @property
    def bf16_dots(self) -> bool:
        """Whether the CPU has dot products of bf16."""
        return self.cpu.endswith(_DOTS)

    def without_bf16_dots(self) -> Target:
        """The same without them, so that what is compiled for it runs on more machines."""
        return replace(self, cpu=self.cpu.removesuffix(_DOTS))

    @classmethod
    def named(
        cls,
        name: str,
        *,
        backend: Backend = "c",
        threads: int = 1,
        memory_budget: int | None = None,
    ) -> Target:
        """The machine of that name: avx512-bf16, avx512, avx2, sse, neon-linux or neon-macos.

        Raises InputError for another name and for fewer than one thread.
        """
        if name not in _MACHINES:
            raise InputError(f"no target is called {name!r}; choose one of {', '.join(_MACHINES)}")
        if threads < 1:
            raise InputError(f"a target needs at least one thread, got threads={threads}")
        triple, cpu, width, mr = _MACHINES[name]
        return cls(backend, triple, cpu, width, mr, threads, memory_budget)

    @classmethod
    def host(
        cls,
        *,
        backend: Backend = "c",
        threads: int | None = None,
        memory_budget: int | None = None,
    ) -> Target:
        """This machine, on all the processors that this process may use unless `threads` is given.

        Raises InputError where there is no target for it.
        """
        count = processors() if threads is None else threads
        return cls.named(host_name(), backend=backend, threads=count, memory_budget=memory_budget)


def host_name() -> str:
    """The name of this machine among the targets. Raises InputError where none fits."""
    system, machine = platform.system(), platform.machine().lower()
    if machine in ("arm64", "aarch64") and system in ("Linux", "Darwin"):
        return "neon-linux" if system == "Linux" else "neon-macos"
    if machine in ("x86_64", "amd64") and system == "Linux":
        return _x86_name(Path("/proc/cpuinfo").read_text())
    raise InputError(
        f"this machine is {system} on {machine}, for which there is no target; "
        f"cross-compile with Target.named, which knows {', '.join(_MACHINES)}"
    )


def _x86_name(cpuinfo: str) -> str:
    flags = {
        word for line in cpuinfo.splitlines() if line.startswith("flags") for word in line.split()
    }
    if flags >= _AVX512 | _AVX2:
        return "avx512-bf16" if "avx512_bf16" in flags else "avx512"
    return "avx2" if flags >= _AVX2 else "sse"


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
