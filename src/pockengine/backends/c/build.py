"""From C source to a shared library: finds the compiler, keeps the kernels compiled, links a unit.

The kernel library is compiled once for each (source, machine, compiler) and kept in a cache folder.
Entries are written beside and renamed, so a reader sees a whole file or none, whoever else builds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pockengine.backends.c import sizes
from pockengine.errors import CompileFailedError, CompilerMissingError
from pockengine.files import cache_dir
from pockengine.target import Target

KERNELS = Path(__file__).parent / "kernels"

# Contraction to fused multiply-add is allowed; reordering sums and assuming away NaN is not.
_FLAGS = [
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-g0", "-w"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
]
_LINK_FLAGS = ["-shared", "-Wl,--gc-sections", "-Wl,--build-id=none", "-s", "-lm", "-lpthread"]
_MACOS_LINK_FLAGS = ["-shared", "-Wl,-dead_strip", "-s"]
_ERROR_LINES = 12
_LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C, and what it calls itself; zig can compile for other machines."""

    command: tuple[str, ...]
    version: str
    is_zig: bool

    def machine_flags(self, target: Target) -> list[str]:
        wide = ["-mprefer-vector-width=512"] if target.vector_width == 16 else []
        if self.is_zig:
            return [
                "-target",
                target.triple,
                f"-mcpu={target.cpu}",
                "-fno-sanitize=undefined",
                *wide,
            ]
        if target.triple.startswith("x86_64"):
            level, *features = target.cpu.split("+")
            return [f"-march={level.replace('_', '-')}", *(f"-m{f}" for f in features), *wide]
        return wide


def find_compiler() -> Compiler:
    """The command in POCKENGINE_CC, else `zig cc` of the package ziglang.

    Raises CompilerMissingError.
    """
    chosen = os.environ.get("POCKENGINE_CC")
    if chosen:
        return _named_compiler(chosen)
    if importlib.util.find_spec("ziglang") is None:
        raise CompilerMissingError(
            "no C compiler was found: run `pip install ziglang`, "
            "or set POCKENGINE_CC to the command of a C compiler"
        )
    return Compiler((sys.executable, "-m", "ziglang", "cc"), f"zig {version('ziglang')}", True)


def _named_compiler(command: str) -> Compiler:
    words = tuple(shlex.split(command))
    try:
        answer = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompilerMissingError(
            f"POCKENGINE_CC is {command!r}, which does not run ({error}); "
            "set it to the command of a C compiler, or unset it to use the ziglang package"
        ) from error
    return Compiler(words, answer.stdout.strip(), "zig" in command)


def kernel_library(target: Target) -> Path:
    """The object file of the kernel library for a target; compiled if the cache does not have it.

    Raises CompilerMissingError, CompileFailedError.
    """
    compiler = find_compiler()
    flags = _compile_flags(compiler, target)
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / f"kernels-{_key(compiler, flags)}.o"
    if not entry.exists():
        with _lock(entry.with_suffix(".lock")):
            if not entry.exists():  # another process may have built it while this one waited
                with _written_whole(entry) as partial:
                    _run(compiler, [*flags, "-c", str(KERNELS / "kernels.c"), "-o", str(partial)])
    return entry


def build_unit(source: str, target: Target, out_path: Path, parts: int = 1) -> Path:
    """Compiles a model's C source, which includes "pock.h", into a shared library at out_path.

    Only what the source marks POCK_EXPORT is visible in it. The same source gives the same bytes.
    Of several `parts` (POCK_IN in unit.h) each is compiled by itself, at the same time. Raises
    CompilerMissingError, CompileFailedError.
    """
    compiler = find_compiler()
    library = kernel_library(target)
    link = _MACOS_LINK_FLAGS if "macos" in target.triple else _LINK_FLAGS
    with tempfile.TemporaryDirectory() as folder:
        # A name relative to the working directory, so that no path reaches the output.
        Path(folder, "unit.c").write_text(source)
        flags = _compile_flags(compiler, target)
        objects = [f"part{number}.o" for number in range(parts)]

        def compile_part(number: int) -> None:
            part = [f"-DPOCK_PART={number}"] if parts > 1 else []
            _run(compiler, [*flags, *part, "-c", "unit.c", "-o", objects[number]], folder)

        with ThreadPoolExecutor(parts) as threads:
            list(threads.map(compile_part, range(parts)))
        with _written_whole(out_path.absolute()) as partial:
            machine = compiler.machine_flags(target)
            _run(compiler, [*machine, *objects, str(library), *link, "-o", str(partial)], folder)
    return out_path


def _compile_flags(compiler: Compiler, target: Target) -> list[str]:
    macros = [f"-D{name}={value}" for name, value in sizes.macros(target).items()]
    return [*compiler.machine_flags(target), *_FLAGS, *macros, f"-I{KERNELS}"]


def _key(compiler: Compiler, flags: list[str]) -> str:
    digest = hashlib.sha256(repr((compiler.version, flags[:-1])).encode())
    for path in sorted(KERNELS.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def _run(compiler: Compiler, arguments: list[str], folder: str | None = None) -> None:
    done = subprocess.run(
        [*compiler.command, *arguments], capture_output=True, text=True, cwd=folder, check=False
    )
    if done.returncode != 0:
        first = "\n".join(done.stderr.splitlines()[:_ERROR_LINES])
        raise CompileFailedError(
            f"the C compiler ({compiler.version}) failed with status {done.returncode}:\n{first}"
        )


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` at the end, in one step, and vanishes on an error."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        partial = Path(folder, path.name)
        yield partial
        os.replace(partial, path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keeps two processes from doing the same work.

    One that died holding the lock delays others until the lock is old. Then they go ahead, which is
    safe because entries are renamed into place.
    """
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if _age(path) > _LOCK_SECONDS:
                path.unlink(missing_ok=True)
            time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
