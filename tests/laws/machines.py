"""Machines to run compiled plans on: this one, and others under an emulator.

An emulated plan is the same C as a native one, linked with a small `main` into a static program. It
reads calls (entry number, arena) from its standard input and answers each with (status, arena).
"""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from pockengine.backends import c
from pockengine.backends.c.build import _compile_flags, _run, find_compiler, kernel_library
from pockengine.plan.planner import Plan
from pockengine.runtime.program import Array, Executable
from pockengine.target import Target, host_name

NAMES = ("host", "avx512-bf16", "avx512", "avx2", "sse", "neon")
X86 = ("avx512-bf16", "avx512", "avx2", "sse")  # each runs what those behind it run
NATIVE = {name: X86[i:] for i, name in enumerate(X86)}
Start = Callable[[int], Executable]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
static int (*const entries[])(void *, size_t, pk_pool *) = {%s};
int main(int count, char **words) {
  static pk_pool pool;
  const size_t size = pock_arena_bytes();
  char *const arena = aligned_alloc(64, size + 64);
  int32_t number;
  pock_start(&pool, count > 1 ? atoi(words[1]) : 1);
  while (fread(&number, sizeof number, 1, stdin) == 1) {
    if (fread(arena, 1, size, stdin) != size) return 1;
    const int32_t status = entries[number](arena, size, &pool);
    fwrite(&status, sizeof status, 1, stdout);
    fwrite(arena, 1, size, stdout);
    fflush(stdout);
  }
  pock_stop(&pool);
  return 0;
}
"""


@dataclass(frozen=True)
class Machine:
    """A target, and the command that emulates it when this machine does not run it."""

    target: Target
    emulator: tuple[str, ...] = ()

    def build(self, plan: Plan) -> Start:
        """Compiles a plan; the result starts it on some threads."""
        if not self.emulator:
            return c.build(plan, self.target).start
        program = _static_program(plan, self.target)
        return lambda threads: Emulated(self.emulator, program, plan, threads)


class Emulated:
    """A static program under an emulator, called as a native one is."""

    def __init__(self, emulator: tuple[str, ...], program: bytes, plan: Plan, threads: int) -> None:
        self.numbers = {name: number for number, name in enumerate(plan.entries)}
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "program")
        path.write_bytes(program)
        path.chmod(0o755)
        command = [*emulator, str(path), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, entry: str, arena: Array) -> int:
        to, back = self.process.stdin, self.process.stdout
        assert to and back
        to.write(struct.pack("<i", self.numbers[entry]) + arena.tobytes())
        to.flush()
        answer = back.read(4 + arena.nbytes)
        assert len(answer) == 4 + arena.nbytes, f"{entry}: the emulated program ended"
        arena[:] = np.frombuffer(answer, np.uint8, offset=4)
        return int(struct.unpack_from("<i", answer)[0])

    def close(self) -> None:
        self.process.communicate()
        self.folder.cleanup()


def _static_program(plan: Plan, target: Target) -> bytes:
    compiler = find_compiler()
    main = MAIN % ", ".join(f"pock_{name}" for name in plan.entries)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "unit.c").write_text(c.emit(plan, target) + main)
        objects = ["unit.c", str(kernel_library(target)), "-lm", "-static", "-o", "program"]
        _run(compiler, [*_compile_flags(compiler, target), *objects], folder)
        return Path(folder, "program").read_bytes()


@cache
def machine(name: str, threads: int = 2) -> Machine | str:
    """The machine of that name, or why it cannot be had here."""
    if name == "neon":
        emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
        target = replace(Target.named("neon-linux", threads=threads), triple="aarch64-linux-musl")
        return Machine(target, (emulator,)) if emulator else "needs qemu-aarch64, of qemu-user"
    host = host_name()
    wanted = host if name == "host" else name
    if wanted in NATIVE.get(host, (host,)):
        return Machine(Target.named(wanted, threads=threads))
    return f"this machine is {host} and does not run {wanted}"
