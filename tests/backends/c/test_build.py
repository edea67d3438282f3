"""Finding the compiler, the cache under two processes, error texts, what a library exports."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pockengine.backends.c.build import build_unit, find_compiler, kernel_library
from pockengine.errors import CompileFailedError, CompilerMissingError, InputError
from pockengine.target import Target, host_name

HOST = Target.host()
UNIT = '#include "pock.h"\nPOCK_EXPORT int pock_answer(void) { return 42; }\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("POCKENGINE_CACHE", str(folder))
    return folder


def test_a_unit_runs_and_exports_only_what_it_marks(tmp_path: Path) -> None:
    path = build_unit(UNIT, HOST, tmp_path / "unit.so")
    library = ctypes.CDLL(str(path))
    assert library.pock_answer() == 42
    with pytest.raises(AttributeError):
        _ = library.pk_gemm
    assert os.listdir(tmp_path) == ["unit.so"]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    first = build_unit(UNIT, HOST, tmp_path / "first.so").read_bytes()
    assert build_unit(UNIT, HOST, tmp_path / "second.so").read_bytes() == first


def test_parts_make_one_library(tmp_path: Path) -> None:
    functions = "".join(
        f"#if POCK_IN({n})\nstatic int own(void) {{ return {n + 7}; }}\n"
        f"POCK_EXPORT int pock_part{n}(void) {{ return own(); }}\n#endif\n"
        for n in range(2)
    )
    source = f'#include "unit.h"\n{functions}'
    path = build_unit(source, HOST, tmp_path / "first.so", parts=2)
    library = ctypes.CDLL(str(path))
    assert (library.pock_part0(), library.pock_part1()) == (7, 8)
    again = build_unit(source, HOST, tmp_path / "second.so", parts=2)
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(CompileFailedError, match="own"):  # whole, they would be two of one name
        build_unit(source, HOST, tmp_path / "whole.so")


def test_an_empty_unit_builds_quickly(tmp_path: Path) -> None:
    build_unit(UNIT, HOST, tmp_path / "first.so")
    start = time.perf_counter()
    build_unit(UNIT.replace("42", "43"), HOST, tmp_path / "second.so")
    assert time.perf_counter() - start < 10  # about 0.3 s on an idle machine


def test_a_refused_unit_tells_the_compilers_words(tmp_path: Path) -> None:
    with pytest.raises(CompileFailedError, match=r"failed with status 1:\n(.|\n)*no_such_name"):
        build_unit("int f(void) { return no_such_name; }", HOST, tmp_path / "unit.so")
    assert os.listdir(tmp_path) == []


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKENGINE_CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        CompilerMissingError, match="run `pip install ziglang`, or set POCKENGINE_CC"
    ):
        find_compiler()


def test_a_chosen_compiler_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKENGINE_CC", "no-such-compiler --fast")
    with pytest.raises(CompilerMissingError, match="POCKENGINE_CC is 'no-such-compiler --fast'"):
        find_compiler()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_another_compiler_can_be_chosen(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKENGINE_CC", "gcc")
    library = ctypes.CDLL(str(build_unit(UNIT, HOST, tmp_path / "unit.so")))
    assert library.pock_answer() == 42


def test_the_library_is_compiled_once(cache: Path) -> None:
    entry = kernel_library(HOST)
    written = entry.stat().st_mtime_ns
    assert kernel_library(HOST) == entry and entry.stat().st_mtime_ns == written
    assert os.listdir(cache) == [entry.name]
    assert kernel_library(replace(HOST, threads=5, memory_budget=1)) == entry


def test_two_processes_build_the_same_entry_at_once(cache: Path) -> None:
    code = (
        "from pockengine.backends.c.build import kernel_library\n"
        "from pockengine.target import Target\n"
        "print(kernel_library(Target.host()).read_bytes().__len__())"
    )
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] and int(answers[0]) > 10_000
    assert os.listdir(cache) == [kernel_library(HOST).name]


def test_a_lock_left_by_a_dead_process_is_taken_over(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = kernel_library(HOST)
    entry.rename(entry.with_suffix(".lock"))  # as if it had died while building
    os.utime(entry.with_suffix(".lock"), (1, 1))
    assert kernel_library(HOST).exists()
    assert os.listdir(cache) == [entry.name]


def test_another_machine_can_be_compiled_for(tmp_path: Path) -> None:
    path = build_unit(UNIT, Target.named("neon-linux"), tmp_path / "unit.so")
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and header[18:20] == b"\xb7\x00"  # EM_AARCH64


def test_targets() -> None:
    assert (Target.named("avx512").nr, Target.named("avx2").nr, Target.named("sse").nr) == (
        32,
        16,
        8,
    )
    assert Target.host().threads >= 1 and Target.host(threads=3).threads == 3
    assert Target.host(threads=1) == Target.named(host_name())
    with pytest.raises(InputError, match="no target is called 'avx3'; choose one of avx512-bf16, "):
        Target.named("avx3")
    with pytest.raises(InputError, match="at least one thread, got threads=0"):
        Target.named("sse", threads=0)


def test_a_machine_without_a_target_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(
        InputError, match=r"this machine is .* on sparc, for which there is no target"
    ):
        host_name()
