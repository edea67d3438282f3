"""A program's signature as JSON and back. Reading believes nothing.

Every name, type, size and offset is checked against the rules that the planner keeps: places lie
in the arena, leaves do not overlap, inputs overlap neither each other nor a leaf.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any, NoReturn, TypeVar

from pockengine.dtypes import NUMPY
from pockengine.errors import ArtifactError
from pockengine.runtime.gates import PREFIX
from pockengine.runtime.program import (
    FEATURES,
    Entry,
    Leaf,
    Prefix,
    Shape,
    Signature,
    Tensor,
)
from pockengine.runtime.tensors import nbytes, parse_json

FORMAT, VERSION = "pockengine.program", 2
KINDS = ("frozen", "trained", "state", "gate")
ALIGNMENT = 64
LARGEST_ARENA = 2**46  # more than any machine has; larger numbers are lies
T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """A file of the archive: its size in bytes and the SHA-256 of its bytes, in hexadecimal."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. `target` has the keys backend, triple and cpu."""

    package: str
    target: Mapping[str, str]
    members: Mapping[str, Member]
    signature: Signature
    originals: tuple[str, ...]


def print_manifest(manifest: Manifest) -> str:
    """The manifest as JSON text."""
    s = manifest.signature
    data = {
        "format": FORMAT,
        "version": VERSION,
        "package": manifest.package,
        "target": dict(manifest.target),
        "members": {name: vars(member) for name, member in manifest.members.items()},
        "arena_bytes": s.arena_bytes,
        "batch": s.batch,
        "threads": s.threads,
        "inputs": list(s.inputs),
        "prefix": vars(s.prefix) if s.prefix else None,
        "parts": s.parts,
        "accumulate": s.accumulate,
        "precision": s.precision,
        "sums": list(s.sums),
        "full_batches": s.full_batches,
        "classes": s.classes,
        "ignore_index": s.ignore_index,
        "aliases": dict(s.aliases),
        "memory": dict(s.memory),
        "scheme": s.scheme,
        "entries": {
            name: {
                "inputs": [_tensor_json(t) for t in entry.inputs],
                "outputs": [_tensor_json(t) for t in entry.outputs],
            }
            for name, entry in s.entries.items()
        },
        "leaves": [_leaf_json(leaf) for leaf in s.leaves.values()],
        "originals": list(manifest.originals),
    }
    return json.dumps(data, indent=1, sort_keys=False) + "\n"


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "offset": tensor.offset,
        "nbytes": tensor.nbytes,
    }


def _leaf_json(leaf: Leaf) -> dict[str, Any]:
    channels = leaf.channels
    return _tensor_json(leaf) | {
        "kind": leaf.kind,
        "perm": None if leaf.perm is None else list(leaf.perm),
        "channels": None if channels is None else [channels[0], list(channels[1])],
        "public": leaf.public,
        "unpacked": None if leaf.unpacked is None else list(leaf.unpacked),
    }


def parse_manifest(text: bytes) -> Manifest:
    """The manifest that `text` holds. Raises ArtifactError for the first thing that cannot be."""
    top = _Object(parse_json(text, "manifest.json"), "manifest.json")
    if (found := top.data.get("format")) != FORMAT:
        raise ArtifactError(f"manifest.json: expected format {FORMAT!r}, got {found!r}")
    if (version := top.integer("version")) != VERSION:
        raise ArtifactError(
            f"the file has format version {version}, this program reads version {VERSION}; "
            f"use the pockengine that wrote it ({top.text('package')}), or compile again"
        )
    signature = _parse_signature(top)
    _check_places(signature)
    _check_inputs(signature)
    if signature.prefix:
        _check_prefix(signature, signature.prefix)
    originals = tuple(top.texts("originals"))
    _check_names(signature, originals)
    return Manifest(
        top.text("package"),
        top.mapping("target", _Object.text),
        top.mapping("members", lambda o, k: _parse_member(o.object(k))),
        signature,
        originals,
    )


def _parse_member(data: "_Object") -> Member:
    return Member(data.integer("nbytes"), data.text("sha256"))


def _parse_signature(top: "_Object") -> Signature:
    leaves = [_parse_leaf(leaf) for leaf in top.objects("leaves")]
    return Signature(
        entries=top.mapping("entries", lambda o, k: _parse_entry(o.object(k))),
        leaves=_by_name(leaves, "leaves"),
        arena_bytes=top.integer("arena_bytes", most=LARGEST_ARENA),
        batch=top.integer("batch", least=1),
        threads=top.integer("threads", least=1, most=4096),
        inputs=tuple(top.texts("inputs")),
        prefix=top.optional("prefix", lambda o, k: _parse_prefix(o.object(k))),
        parts=top.integer("parts", least=1),
        accumulate=top.integer("accumulate", least=1),
        precision=top.text("precision"),
        sums=tuple(top.texts("sums")),
        full_batches=top.flag("full_batches"),
        classes=top.optional("classes", _Object.integer),
        ignore_index=top.optional("ignore_index", _Object.any_integer),
        aliases=top.mapping("aliases", _Object.text),
        memory=top.mapping("memory", _Object.integer),
        scheme=top.text("scheme"),
    )


def _parse_prefix(data: "_Object") -> Prefix:
    return Prefix(data.integer("samples", least=1), data.text("key"))


def _parse_entry(data: "_Object") -> Entry:
    inputs = [Tensor(*_parse_tensor(t)) for t in data.objects("inputs")]
    outputs = [Tensor(*_parse_tensor(t)) for t in data.objects("outputs")]
    _by_name(inputs, f"{data.where} inputs")
    _by_name(outputs, f"{data.where} outputs")
    return Entry(tuple(inputs), tuple(outputs))


def _parse_tensor(data: "_Object") -> tuple[str, str, Shape, int]:
    dtype, shape = data.text("dtype"), data.integers("shape")
    if dtype not in NUMPY:
        data.fail("dtype", f"one of {', '.join(NUMPY)}")
    if len(shape) > 32 or data.integer("nbytes") != nbytes(dtype, shape):
        data.fail("nbytes", f"the size of {dtype}{list(shape)}")
    offset = data.integer("offset")
    if offset % ALIGNMENT:
        data.fail("offset", f"a multiple of {ALIGNMENT}")
    return data.text("name"), dtype, shape, offset


def _parse_leaf(data: "_Object") -> Leaf:
    name, dtype, shape, offset = _parse_tensor(data)
    perm, unpacked = (data.optional(key, _Object.integers) for key in ("perm", "unpacked"))
    if unpacked is not None:
        _check_panels(data, shape, unpacked)
    axes = len(shape if unpacked is None else unpacked)
    if perm is not None and sorted(perm) != list(range(axes)):
        data.fail("perm", f"a permutation of {axes} axes")
    if data.text("kind") not in KINDS:
        data.fail("kind", f"one of {', '.join(KINDS)}")
    public = data.flag("public")
    leaf = Leaf(name, dtype, shape, offset, data.text("kind"), perm, None, public, unpacked)
    if data.data.get("channels") is None:
        return leaf
    return replace(leaf, channels=_parse_channels(data, leaf))


def _check_panels(data: "_Object", shape: Shape, unpacked: Shape) -> None:
    sound = len(shape) == 3 and shape[2] > 0 and 2 <= len(unpacked) <= 32
    if not sound or shape[:2] != (-(-unpacked[-1] // shape[2]), prod(unpacked[:-1])):
        data.fail("unpacked", f"the shape of a tensor whose panels are {list(shape)}")


def _parse_channels(data: "_Object", leaf: Leaf) -> tuple[int, Shape]:
    pair = data.data["channels"]
    expected = "[axis, ascending indices]"
    if not isinstance(pair, list) or len(pair) != 2:
        data.fail("channels", expected)
    inner = _Object({"axis": pair[0], "indices": pair[1]}, f"{data.where} channels")
    axis, indices = inner.integer("axis"), inner.integers("indices")
    size = leaf.source_shape[axis] if axis < len(leaf.source_shape) else 0
    ascending = all(a < b for a, b in pairwise(indices))
    if not ascending or not indices or indices[-1] >= size:
        data.fail("channels", expected + f" below {size}")
    return axis, indices


def _by_name(tensors: Iterable[T], where: str) -> dict[str, T]:
    found: dict[str, T] = {}
    for tensor in tensors:
        name: str = tensor.name  # type: ignore[attr-defined]
        if found.setdefault(name, tensor) is not tensor:
            raise ArtifactError(f"manifest.json: {where} have two tensors named {name!r}")
    return found


def _check_names(signature: Signature, originals: tuple[str, ...]) -> None:
    for name in signature.entries:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ArtifactError(f"manifest.json: {name!r} is no name of an entry point")
    unknown = set(signature.aliases.values()) - set(signature.leaves) - set(originals)
    if unknown or set(originals) & set(signature.leaves):
        raise ArtifactError("manifest.json: aliases or originals do not fit the leaves")
    states = {name for name, leaf in signature.leaves.items() if leaf.kind == "state"}
    if set(signature.sums) - states:
        raise ArtifactError("manifest.json: sums of gradients that are no states")
    gates = {name: leaf for name, leaf in signature.leaves.items() if leaf.kind == "gate"}
    for name, leaf in gates.items():
        if leaf.dtype != "bool" or name.removeprefix(PREFIX) not in set(signature.leaves) - {name}:
            raise ArtifactError(f"manifest.json: {leaf} is no gate of a tensor")


def _check_places(signature: Signature) -> None:
    """Every tensor lies in the arena; leaves and an entry's inputs are disjoint."""
    for tensor in _all_tensors(signature):
        if tensor.offset + tensor.nbytes > signature.arena_bytes:
            raise ArtifactError(
                f"manifest.json: {tensor} at {tensor.offset:,} lies outside of the arena of "
                f"{signature.arena_bytes:,} bytes"
            )
    leaves = list(signature.leaves.values())
    for entry in signature.entries.values():
        _check_disjoint([*leaves, *entry.inputs])
    _check_disjoint(leaves)


def _check_inputs(signature: Signature) -> None:
    """Every input of the model is one of an entry point."""
    givers = [signature.entries.get(name) for name in ("predict", FEATURES)]
    known = {t.name for entry in givers if entry for t in entry.inputs}
    if unknown := [name for name in signature.inputs if name not in known]:
        raise ArtifactError(f"manifest.json: no entry point takes the input {unknown[0]!r}")


def _check_prefix(signature: Signature, prefix: Prefix) -> None:
    """What the prefix gives for a few samples has one place for the batch, written by none else."""
    entries = dict(signature.entries)
    own = entries.pop(FEATURES, Entry((), ()))
    inputs = [t for entry in entries.values() for t in entry.inputs]
    for few in own.outputs:
        places = [t for t in inputs if t.name == few.name]
        whole = few.nbytes * (signature.batch // prefix.samples)
        if len(places) != len(entries) or len(set(places)) != 1 or places[0].nbytes != whole:
            raise ArtifactError(f"manifest.json: the feature {few} does not fit its readers")
        for tensor in (*own.inputs, *own.outputs):
            _check_disjoint([places[0], tensor])
    rows = [t.shape[:1] for t in own.inputs]
    if signature.batch % prefix.samples or any(not n or n[0] % prefix.samples for n in rows):
        raise ArtifactError(f"manifest.json: the prefix does not take {prefix.samples} samples")


def _all_tensors(signature: Signature) -> Iterator[Tensor]:
    yield from signature.leaves.values()
    for entry in signature.entries.values():
        yield from (*entry.inputs, *entry.outputs)


def _check_disjoint(tensors: Iterable[Tensor]) -> None:
    before: Tensor | None = None
    for tensor in sorted((t for t in tensors if t.nbytes), key=lambda t: t.offset):
        if before is not None and tensor.offset < before.offset + before.nbytes:
            raise ArtifactError(f"manifest.json: {before.name!r} and {tensor.name!r} overlap")
        before = tensor


@dataclass(frozen=True)
class _Object:
    """A JSON object whose members are asked for by type; anything else is an ArtifactError."""

    data: dict[str, Any]
    where: str

    def fail(self, key: str, expected: str) -> NoReturn:
        came = repr(self.data[key])[:60] if key in self.data else "nothing"
        raise ArtifactError(f"{self.where}: expected {key} to be {expected}, got {came}")

    def text(self, key: str) -> str:
        found = self.data.get(key)
        return found if isinstance(found, str) else self.fail(key, "a string")

    def flag(self, key: str) -> bool:
        found = self.data.get(key)
        return found if isinstance(found, bool) else self.fail(key, "true or false")

    def integer(self, key: str, least: int = 0, most: int = 2**62) -> int:
        found = self.data.get(key)
        if type(found) is not int or not least <= found <= most:
            self.fail(key, f"an integer of {least} to {most}")
        return found

    def any_integer(self, key: str) -> int:
        return self.integer(key, least=-(2**62))

    def integers(self, key: str) -> Shape:
        found = self.data.get(key)
        if not isinstance(found, list) or not all(type(n) is int and 0 <= n < 2**62 for n in found):
            self.fail(key, "a list of integers of at least 0")
        return tuple(found)

    def texts(self, key: str) -> list[str]:
        found = self.data.get(key)
        if not isinstance(found, list) or not all(isinstance(n, str) for n in found):
            self.fail(key, "a list of strings")
        return found

    def optional(self, key: str, read: Callable[["_Object", str], T]) -> T | None:
        return None if self.data.get(key) is None else read(self, key)

    def object(self, key: str) -> "_Object":
        found = self.data.get(key)
        if not isinstance(found, dict):
            self.fail(key, "an object")
        return _Object(found, f"{self.where}: {key}")

    def objects(self, key: str) -> list["_Object"]:
        found = self.data.get(key)
        if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
            self.fail(key, "a list of objects")
        return [_Object(x, f"{self.where}: {key}[{i}]") for i, x in enumerate(found)]

    def mapping(self, key: str, read: Callable[["_Object", str], T]) -> dict[str, T]:
        inner = self.object(key)
        return {name: read(inner, name) for name in inner.data}
