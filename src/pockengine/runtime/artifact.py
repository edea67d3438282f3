"""A program in a file: `.pock`, a zip archive that any unzip can open.

    manifest.json         versions, target, entry points, leaves, places, a hash of every member
    graph.txt  plan.json  what was compiled, for people and tools; running does not read them
    weights.safetensors   first contents of the leaves, in the layout they have in the arena
    source.safetensors    tensors of the source model that were folded into others
    lib/program.so        the native code
    src/program.c         the C that it was compiled from

Members are stored, not compressed, so that weights are read straight into the arena and a size is
what it says. The comment at the end of the archive holds the SHA-256 of all that comes before it:
a file that was cut short or altered anywhere is refused before anything in it is believed. After
that the manifest is checked against its own rules, and every member against the manifest. Nothing
is ever unpickled, and no path in the file is used.
"""

import hashlib
import importlib.metadata
import json
import os
import secrets
import struct
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pockengine.dtypes import NUMPY
from pockengine.errors import ArtifactError, InputError
from pockengine.runtime.manifest import Manifest, Member, parse_manifest, print_manifest
from pockengine.runtime.native import NativeExecutable
from pockengine.runtime.program import Array, Program
from pockengine.runtime.tensors import Stored, read_header, read_into, write_tensors
from pockengine.target import Target

MEMBERS = (
    "graph.txt",
    "plan.json",
    "weights.safetensors",
    "source.safetensors",
    "lib/program.so",
    "src/program.c",
)
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 256 * 2**20
SEAL = b"pockengine sha256 "
DIGITS = 64  # of a SHA-256 in hexadecimal
CHUNK = 1 << 16  # read at a time; what is freed while loading need not stay with the process
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OverflowError,
    IndexError,
    struct.error,
    OSError,
)
ADVICE = "copy the file again, or compile again"
Write = Callable[[bytes], None]


@dataclass(frozen=True)
class Contents:
    """What goes into an artifact. `target` has the keys backend, triple and cpu."""

    program: Program
    target: Mapping[str, str]
    graphs: str  # the text of every entry point
    plan: Mapping[str, Any]  # as `plan.report.to_json` makes it
    source: str
    library: bytes


# Writing.


def write_artifact(path: Path, contents: Contents) -> None:
    """Writes a file beside `path`, makes sure that it is on disk, and renames it.

    Raises ArtifactError for a program without native code, and OSError when the disk refuses.
    """
    if not contents.library:
        raise ArtifactError(
            f"a program of the {contents.target.get('backend')!r} back end has no native code to "
            "keep; compile it for the 'c' back end"
        )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb+") as file:
            _write(file, contents)
            _seal(file)
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(file: BinaryIO, contents: Contents) -> None:
    program = contents.program
    texts = {
        "graph.txt": contents.graphs,
        "plan.json": json.dumps(contents.plan),
        "src/program.c": contents.source,
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        members = {n: _add(archive, n, _writing(text.encode())) for n, text in texts.items()}
        members["lib/program.so"] = _add(archive, "lib/program.so", _writing(contents.library))
        members["weights.safetensors"] = _add(
            archive, "weights.safetensors", lambda w: _write_weights(w, program)
        )
        members["source.safetensors"] = _add(
            archive, "source.safetensors", lambda w: _write_originals(w, program)
        )
        manifest = Manifest(
            _package_version(), contents.target, members, program.signature, program.originals
        )
        _add(archive, MANIFEST, _writing(print_manifest(manifest).encode()))
        archive.comment = SEAL + b"0" * DIGITS


def _add(archive: zipfile.ZipFile, name: str, produce: Callable[[Write], None]) -> Member:
    """Adds a member, of the same bytes whenever it is written; returns its size and hash."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    digest, size = hashlib.sha256(), 0
    # Sizes are not known before a tensor file is written, so it is given room for large ones.
    with archive.open(info, "w", force_zip64=name.endswith(".safetensors")) as member:

        def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += member.write(data)

        produce(write)
    return Member(size, digest.hexdigest())


def _writing(data: bytes) -> Callable[[Write], None]:
    return lambda write: write(data)


def _write_weights(write: Write, program: Program) -> None:
    leaves = program.signature.leaves.values()
    write_tensors(write, {x.name: (x.dtype, x.shape) for x in leaves}, program.fill)


def _write_originals(write: Write, program: Program) -> None:
    names = {dtype: name for name, dtype in NUMPY.items()}
    types = {}
    for name in program.originals:
        array = program.original(name)
        types[name] = names[array.dtype], array.shape

    def fill(name: str, out: Array) -> None:
        out[...] = program.original(name)

    write_tensors(write, types, fill)


def _package_version() -> str:
    try:
        return importlib.metadata.version("pockengine")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _seal(file: BinaryIO) -> None:
    file.flush()
    end = file.seek(-DIGITS, os.SEEK_END)
    digest = _digest(file, 0, end)
    file.seek(end)
    file.write(digest.encode())
    file.flush()


def _digest(file: BinaryIO, start: int, size: int) -> str:
    """The SHA-256 of `size` bytes from `start`, or of those that there are."""
    digest = hashlib.sha256()
    file.seek(start)
    while size and (chunk := file.read(min(size, CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


# Reading.


@dataclass(frozen=True)
class Span:
    """Where a member's bytes are in the file."""

    start: int
    size: int


class Artifact:
    """An open artifact whose every byte was checked. Weights are read when they are asked for."""

    def __init__(
        self,
        file: BinaryIO,
        manifest: Manifest,
        spans: Mapping[str, Span],
    ) -> None:
        """Takes over `file`, and closes it when the artifact is no longer used."""
        self.manifest = manifest
        self._file = file
        self._spans = spans
        self._weights = self._header("weights.safetensors")
        self._originals = self._header("source.safetensors")
        self._check_tensors()
        self._close = weakref.finalize(self, file.close)

    def close(self) -> None:
        """Closes the file; nothing can be read from it any more."""
        self._close()

    def fill(self, name: str, out: Array) -> None:
        """Reads the first content of a leaf straight into `out`."""
        read_into(self._file, self._weights[name], out)

    def original(self, name: str) -> Array:
        """A tensor of the source model that the program does not hold."""
        stored = self._originals[name]
        out = np.empty(stored.shape, NUMPY[stored.dtype])
        read_into(self._file, stored, out)
        return out

    def read(self, member: str) -> bytes:
        """The bytes of a member. Raises ArtifactError when they are no longer what was checked."""
        span = self._spans[member]
        self._file.seek(span.start)
        data = self._file.read(span.size)
        if hashlib.sha256(data).hexdigest() != self.manifest.members[member].sha256:
            raise ArtifactError(f"{member} was altered while the file was in use; {ADVICE}")
        return data

    def program(self) -> Program:
        """The program, which reads from this artifact as long as it lives."""
        signature = self.manifest.signature

        def start(threads: int) -> NativeExecutable:
            check_target(self.manifest.target)
            library = self.read("lib/program.so")
            return NativeExecutable(library, signature.entries, signature.arena_bytes, threads)

        originals = self.manifest.originals
        return LoadedProgram(signature, start, self.fill, self.original, originals, artifact=self)

    def _header(self, member: str) -> dict[str, Stored]:
        span = self._spans[member]
        return read_header(self._file, span.start, span.size, member)

    def _check_tensors(self) -> None:
        """The tensors in the file are the leaves and originals that the manifest lists."""
        leaves = self.manifest.signature.leaves
        expected = {n: (leaf.dtype, leaf.shape) for n, leaf in leaves.items()}
        found = {n: (t.dtype, t.shape) for n, t in self._weights.items()}
        if different := sorted(dict(expected.items() ^ found.items())):
            raise ArtifactError(
                f"weights.safetensors and the manifest differ in {different[0]!r}; {ADVICE}"
            )
        if different := sorted(set(self._originals) ^ set(self.manifest.originals)):
            raise ArtifactError(
                f"source.safetensors and the manifest differ in {different[0]!r}; {ADVICE}"
            )


@dataclass(frozen=True)
class LoadedProgram(Program):
    """A program that came from a file."""

    artifact: Artifact = field(kw_only=True)

    def save(self, path: str | Path) -> None:
        """Writes a `.pock` file; the one that it came from may be replaced."""
        read = self.artifact.read
        contents = Contents(
            self,
            self.artifact.manifest.target,
            read("graph.txt").decode(),
            json.loads(read("plan.json")),
            read("src/program.c").decode(),
            read("lib/program.so"),
        )
        write_artifact(Path(path), contents)


def open_artifact(path: Path) -> Artifact:
    """Checks a file from end to end and opens it. Raises ArtifactError, in words, for damage."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        return _open(file)
    except ArtifactError as error:
        file.close()
        raise ArtifactError(f"{path}: {error}") from error.__cause__
    except (OSError, MemoryError) as error:
        file.close()
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def load_program(path: Path) -> Program:
    """The program in a file, checked. Its weights and code are read when a session starts."""
    return open_artifact(path).program()


def check_target(target: Mapping[str, str]) -> None:
    """Raises ArtifactError unless this machine can run code for `target`."""
    wanted = f"{target.get('triple')} with a CPU of {target.get('cpu')}"
    try:
        host = Target.host()
    except InputError as error:
        raise ArtifactError(f"the program was compiled for {wanted}; {error}") from error
    same_machine = target.get("triple") == host.triple
    if not same_machine or target.get("cpu") not in _runnable(host.cpu):
        raise ArtifactError(
            f"the program was compiled for {wanted}; this machine is {host.triple} with a CPU of "
            f"{host.cpu}. Compile it for this machine"
        )


def _runnable(cpu: str) -> list[str]:
    """The CPUs whose code runs on `cpu`: for x86-64 all levels up to its own."""
    family, _, level = cpu.partition("+")[0].rpartition("_v")
    levels = [f"{family}_v{i + 1}" for i in range(int(level))] if family == "x86_64" else []
    return [*levels, cpu]


def _open(file: BinaryIO) -> Artifact:
    _check_seal(file)
    spans = _find_members(file)
    manifest = _read_manifest(file, spans[MANIFEST])
    for name in MEMBERS:
        _check_member(file, name, spans[name], manifest.members.get(name))
    return Artifact(file, manifest, spans)


def _check_seal(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise ArtifactError("this is no .pock file: it does not begin as a zip archive does")
    start = max(0, size - DIGITS - len(SEAL))
    file.seek(start)
    seal = file.read(len(SEAL) + DIGITS)
    if not seal.startswith(SEAL):
        raise ArtifactError(f"the file was cut short, or is no .pock file; {ADVICE}")
    if _digest(file, 0, size - DIGITS).encode() != seal[len(SEAL) :]:
        raise ArtifactError(f"the file was altered: its contents do not match its seal; {ADVICE}")


def _find_members(file: BinaryIO) -> dict[str, Span]:
    """The place of every member, by name: exactly those that there must be, each as it is."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        spans = {info.filename: _span(file, info) for info in infos}
    except ARCHIVE_ERRORS as error:
        raise ArtifactError(f"the archive is damaged ({error}); {ADVICE}") from error
    names = sorted(info.filename for info in infos)
    if names != sorted((*MEMBERS, MANIFEST)):
        wrong = sorted(set(names) ^ {*MEMBERS, MANIFEST}) or ["a member that is there twice"]
        raise ArtifactError(f"the archive lacks, or should not have: {', '.join(wrong)[:200]}")
    ordered = sorted(spans.values(), key=lambda span: span.start)
    if any(a.start + a.size > b.start for a, b in pairwise(ordered)):
        raise ArtifactError(f"members of the archive overlap; {ADVICE}")
    return spans


def _span(file: BinaryIO, info: zipfile.ZipInfo) -> Span:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ArtifactError(f"{info.filename!r} is compressed; members of a .pock file are not")
    file.seek(info.header_offset)
    header = file.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if header[:4] != b"PK\x03\x04" or start + info.file_size > file.seek(0, os.SEEK_END):
        raise ArtifactError(f"{info.filename!r} lies outside of the file; {ADVICE}")
    return Span(start, info.file_size)


def _read_manifest(file: BinaryIO, span: Span) -> Manifest:
    if span.size > MANIFEST_LIMIT:
        raise ArtifactError(f"{MANIFEST} has {span.size:,} bytes, at most {MANIFEST_LIMIT:,} do")
    file.seek(span.start)
    return parse_manifest(file.read(span.size))


def _check_member(file: BinaryIO, name: str, span: Span, member: Member | None) -> None:
    said = -1 if member is None else member.nbytes
    if member is None or said != span.size:
        raise ArtifactError(f"{name} has {span.size:,} bytes, in the manifest {said:,}; {ADVICE}")
    if _digest(file, span.start, span.size) != member.sha256:
        raise ArtifactError(f"{name} does not match its hash in the manifest; {ADVICE}")
