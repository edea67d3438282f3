"""The kernels on every target that this machine runs or emulates, by a self-check written in C."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pockengine.backends.c.build import KERNELS, _compile_flags, _run, find_compiler
from pockengine.target import Target, host_name

SOURCE = Path(__file__).parent / "selfcheck.c"
# Statically linked, so that an emulator needs no foreign system around it.
EMULATED = {"neon-linux": ("aarch64-linux-musl", "qemu-aarch64")}


def run(target: Target, folder: Path, emulator: list[str], extra: list[str]) -> str:
    compiler = find_compiler()
    flags = _compile_flags(compiler, target)
    program = folder / "selfcheck"
    sources = [str(SOURCE), str(KERNELS / "kernels.c")]
    _run(compiler, [*flags, *extra, *sources, "-lm", "-o", str(program)])
    done = subprocess.run([*emulator, str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", EMULATED)
def test_emulated(name: str, tmp_path: Path) -> None:
    triple, emulator = EMULATED[name]
    path = shutil.which(emulator) or shutil.which(f"{emulator}-static")
    if path is None:
        pytest.skip(f"needs {emulator}, of the package qemu-user")
    target = replace(Target.named(name), triple=triple)
    assert run(target, tmp_path, [path], ["-static"]).count("ok  ") >= 20


def test_without_threads_no_thread_library_is_needed(tmp_path: Path) -> None:
    target = Target.named(host_name())
    assert run(target, tmp_path, [], ["-DPOCK_NO_THREADS"]).count("ok  ") >= 20
