"""Program files: what is written is read back, and no damaged file does anything but say so."""

import gc
import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pockengine.errors import ArtifactError, InputError
from pockengine.panels import to_panels
from pockengine.runtime import artifact
from pockengine.runtime.artifact import (
    DIGITS,
    MEMBERS,
    SEAL,
    Contents,
    check_target,
    load_program,
    open_artifact,
    write_artifact,
)
from pockengine.runtime.program import Array, Entry, Leaf, Prefix, Program, Signature, Tensor
from pockengine.target import Target

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "norm.running": np.linspace(0, 1, 5),
    "rng": np.array([7, 9]),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "packed": to_panels(np.arange(30, dtype=np.float32).reshape(6, 5), 4),
}
ORIGINALS = {"norm.weight": np.ones(3, np.float32), "norm.count": np.array(4)}


def make_program() -> Program:
    leaves = [
        Leaf("conv.weight", "f32", (2, 3, 4), 0, "trained", (1, 2, 0), (0, (0, 3))),
        Leaf("norm.running", "f64", (5,), 128, "frozen"),
        Leaf("rng", "i64", (2,), 192, "state", public=False),
        Leaf("mask", "bool", (2,), 256, "frozen"),
        Leaf("empty", "f32", (0, 3), 320, "frozen"),
        Leaf("packed", "f32", (2, 6, 4), 576, "frozen", (1, 0), unpacked=(6, 5)),
    ]
    kept = Tensor("features:0", "f32", (8, 2), 768)
    entry = Entry(
        (Tensor("x", "f32", (8, 3), 320), kept, Tensor("lr", "f32", (), 448)),
        (Tensor("loss", "f32", (), 512), Tensor("same", "f32", (1,), 512)),
    )
    signature = Signature(
        entries={
            "features": Entry(
                (Tensor("x", "f32", (2, 3), 320),), (Tensor("features:0", "f32", (2, 2), 384),)
            ),
            "train": entry,
            "predict": replace(entry, inputs=entry.inputs[:2]),
        },
        leaves={leaf.name: leaf for leaf in leaves},
        arena_bytes=832,
        batch=8,
        threads=2,
        inputs=("x",),
        prefix=Prefix(2, "0123abcd"),
        accumulate=2,
        full_batches=True,
        classes=10,
        ignore_index=-100,
        aliases={"tied.weight": "conv.weight"},
        memory={"frozen": 42},
        scheme='{"conv.weight": [0, 3]}',
    )

    def fill(name: str, out: Array) -> None:
        out[...] = ARRAYS[name]

    def start(threads: int) -> Any:
        raise AssertionError("never started")

    return Program(signature, start, fill, lambda name: ORIGINALS[name], tuple(ORIGINALS))


def target() -> dict[str, str]:
    host = Target.host()
    return {"backend": "c", "triple": host.triple, "cpu": host.cpu}


def make_contents() -> Contents:
    graphs = "entry train\ngraph {\n}\nentry predict\ngraph {\n}\n"
    plan = {"arena_bytes": 768}
    return Contents(make_program(), target(), graphs, plan, "int x;\n", b"\x7fELF no library")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "model.pock", make_contents())
    return tmp_path / "model.pock"


def refuses(path: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        open_artifact(path)
    assert str(caught.value).startswith(str(path))


# Round trip.


def test_a_program_comes_back_as_it_was(path: Path) -> None:
    loaded = load_program(path)
    assert loaded.signature == make_program().signature
    assert loaded.originals == tuple(ORIGINALS)
    for name, expected in ORIGINALS.items():
        np.testing.assert_array_equal(loaded.original(name), expected, strict=True)


def test_weights_go_straight_into_the_arena(path: Path) -> None:
    loaded = load_program(path)
    arena = np.full(832, 255, np.uint8)
    for leaf in loaded.signature.leaves.values():
        loaded.fill(leaf.name, leaf.view(arena))
        np.testing.assert_array_equal(leaf.view(arena), ARRAYS[leaf.name], strict=True)
    assert (arena[96:128] == 255).all() and (arena[320:576] == 255).all()


def test_panels_come_back_in_the_layout_of_the_source() -> None:
    packed = make_program().signature.leaves["packed"]
    source = np.arange(30, dtype=np.float32).reshape(6, 5).T
    assert packed.source_shape == (5, 6)
    np.testing.assert_array_equal(packed.stored(source), ARRAYS["packed"], strict=True)
    np.testing.assert_array_equal(packed.restored(ARRAYS["packed"]), source, strict=True)


def test_filling_takes_no_second_copy(tmp_path: Path) -> None:
    import tracemalloc

    big = np.random.default_rng(0).random(2**20).astype(np.float32)
    leaf = Leaf("w", "f32", big.shape, 0, "frozen")
    program = make_program()
    signature = replace(program.signature, leaves={"w": leaf}, arena_bytes=2**23, aliases={})
    signature = replace(signature, entries={}, inputs=(), prefix=None)

    def fill(name: str, out: Array) -> None:
        out[...] = big

    contents = replace(make_contents(), program=replace(program, signature=signature, fill=fill))
    write_artifact(tmp_path / "big.pock", contents)
    loaded, out = load_program(tmp_path / "big.pock"), np.empty_like(big)
    tracemalloc.start()
    loaded.fill("w", out)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    np.testing.assert_array_equal(out, big)


def test_text_members_can_be_read_by_any_unzip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("graph.txt").startswith(b"entry train\ngraph {")
        assert json.loads(archive.read("plan.json")) == {"arena_bytes": 768}
        assert json.loads(archive.read("manifest.json"))["version"] == 2


def test_the_weights_are_a_safetensors_file(path: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    with zipfile.ZipFile(path) as archive:
        found = numpy.load(archive.read("weights.safetensors"))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_same_program_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "again.pock", make_contents())
    assert (tmp_path / "again.pock").read_bytes() == path.read_bytes()


def test_a_package_that_is_not_installed_has_no_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    write_artifact(path, make_contents())
    assert open_artifact(path).manifest.package == "unknown"


def test_a_file_is_replaced_whole_or_not_at_all(path: Path) -> None:
    before = path.read_bytes()

    def fill(name: str, out: Array) -> None:
        raise KeyboardInterrupt

    broken = replace(make_contents(), program=replace(make_program(), fill=fill))
    with pytest.raises(KeyboardInterrupt):
        write_artifact(path, broken)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_program_without_native_code_is_not_written(tmp_path: Path) -> None:
    contents = replace(make_contents(), library=b"", target={"backend": "numpy"})
    with pytest.raises(ArtifactError, match="'numpy' back end has no native code to keep; compile"):
        write_artifact(tmp_path / "model.pock", contents)
    assert not list(tmp_path.iterdir())


def test_the_file_is_closed_with_the_program(path: Path) -> None:
    opened = open_artifact(path)
    file = opened._file
    program = opened.program()
    del opened
    gc.collect()
    assert not file.closed
    del program
    gc.collect()
    assert file.closed


# Damage.


def test_truncated_files_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 11), *range(len(whole) - 150, len(whole))):
        path.write_bytes(whole[:size])
        refuses(path, "does not begin as a zip|was cut short|was altered")


def test_any_altered_byte_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in (*rng.permutation(len(whole))[:500], *range(len(whole) - 150, len(whole))):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        refuses(path, "does not begin as a zip|was cut short|was altered")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"#!/bin/sh\n", b"\0" * 5000])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pock").write_bytes(content)
    refuses(tmp_path / "other.pock", "no .pock file")


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "missing.pock", "cannot be opened: No such file")
    refuses(tmp_path, "cannot be opened: Is a directory")


def test_bytes_after_the_end_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    refuses(path, "was cut short, or is no .pock file")


# Files that were made to deceive: the seal is right, the contents are not.


def resealed(path: Path, members: dict[str, bytes], **options: Any) -> None:
    """Writes an archive of these members with a correct seal."""
    with zipfile.ZipFile(path, "w", options.pop("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        for name, data in options.pop("more", ()):
            archive.writestr(name, data)
        archive.comment = SEAL + b"0" * DIGITS
    reseal(path)


def reseal(path: Path) -> None:
    data = path.read_bytes()[:-DIGITS]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_member(members: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    """The members with one replaced, and the manifest telling its new size and hash."""
    manifest = json.loads(members["manifest.json"])
    digest = hashlib.sha256(data).hexdigest()
    manifest["members"][name] = {"nbytes": len(data), "sha256": digest}
    return {**members, name: data, "manifest.json": json.dumps(manifest).encode()}


def deceive(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    resealed(path, {**members, "manifest.json": json.dumps(manifest).encode()})


def test_a_rewritten_archive_that_says_the_same_is_accepted(path: Path) -> None:
    resealed(path, members_of(path))
    assert open_artifact(path).manifest.signature == make_program().signature


@pytest.mark.parametrize("name", [*MEMBERS, "manifest.json"])
def test_a_missing_member_is_refused(path: Path, name: str) -> None:
    resealed(path, {n: data for n, data in members_of(path).items() if n != name})
    refuses(path, f"lacks, or should not have: {name}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_should_not_be_there_are_refused(path: Path) -> None:
    members = members_of(path)
    resealed(path, {**members, "../../etc/passwd": b"root"})
    refuses(path, "lacks, or should not have: ../../etc/passwd")
    resealed(path, members, more=[("plan.json", b"{}")])
    refuses(path, "a member that is there twice")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_unlike_its_hash_is_refused(path: Path, name: str) -> None:
    members = members_of(path)
    altered = bytes([members[name][0] ^ 1]) + members[name][1:]
    resealed(path, {**members, name: altered})
    refuses(path, f"{name} does not match its hash in the manifest; copy the file again")
    resealed(path, {**members, name: members[name] + b" "})
    refuses(path, f"{name} has .* bytes, in the manifest")


def test_compressed_members_are_refused(path: Path) -> None:
    members = {**members_of(path), "plan.json": b"0" * 10**6}
    resealed(path, members, compression=zipfile.ZIP_DEFLATED)
    refuses(path, "is compressed; members of a .pock file are not")


def test_an_archive_with_absurd_sizes_is_refused(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    directory = whole.rindex(b"PK\x01\x02")
    for offset in (20, 24, 42):  # compressed size, size, place of the local header
        damaged = bytearray(whole)
        damaged[directory + offset : directory + offset + 4] = b"\xf0\xff\xff\x7f"
        path.write_bytes(damaged)
        reseal(path)
        refuses(path, "archive is damaged|is compressed|outside of the file")


def test_overlapping_members_are_refused(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    places = [whole.index(b"PK\x01\x02")]
    places.append(whole.index(b"PK\x01\x02", places[0] + 4))
    whole[places[0] + 42 : places[0] + 46] = whole[places[1] + 42 : places[1] + 46]
    path.write_bytes(whole)
    reseal(path)
    refuses(path, "members of the archive overlap|archive is damaged")


def test_an_unreadable_file_and_a_large_manifest_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "MANIFEST_LIMIT", 100)
    refuses(path, "manifest.json has .* bytes, at most 100 do")

    def fails(file: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(artifact, "_open", fails)
    refuses(path, "cannot be read: the disk is gone")


def test_a_sealed_archive_with_altered_structure_never_fails_otherwise(path: Path) -> None:
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    rng = np.random.default_rng(1)
    for position in range(start, len(whole) - DIGITS - len(SEAL), 2):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        reseal(path)
        accepts_or_refuses(path)


def accepts_or_refuses(path: Path) -> bool:
    """Whether the file was accepted; any exception but ArtifactError goes through."""
    try:
        open_artifact(path).close()
    except ArtifactError:
        return False
    return True


def leaf(manifest: dict[str, Any], number: int) -> dict[str, Any]:
    found: dict[str, Any] = manifest["leaves"][number]
    return found


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "format": (lambda m: m.update(format="zip"), "expected format 'pockengine.program', got 'zip'"),
    "version": (lambda m: m.update(version=1), "format version 1, this program reads version 2"),
    "no version": (lambda m: m.pop("version"), "expected version to be an integer of 0 .* nothing"),
    "arena": (lambda m: m.update(arena_bytes=2**60), "expected arena_bytes to be an integer of 0"),
    "small arena": (
        lambda m: m.update(arena_bytes=704),
        "packed.* lies outside of the arena of 704",
    ),
    "negative": (lambda m: leaf(m, 0).update(offset=-64), "expected offset to be an integer"),
    "unaligned": (lambda m: leaf(m, 0).update(offset=4), "offset to be a multiple of 64, got 4"),
    "overlap": (lambda m: leaf(m, 1).update(offset=64), "'conv.weight' and 'norm.running' overlap"),
    "input on leaf": (
        lambda m: m["entries"]["train"]["inputs"][0].update(offset=128),
        "'norm.running' and 'x' overlap|'x' and 'norm.running' overlap",
    ),
    "nbytes": (lambda m: leaf(m, 0).update(nbytes=95), r"nbytes to be the size of f32\[2, 3, 4\]"),
    "dtype": (lambda m: leaf(m, 0).update(dtype="f16"), "expected dtype to be one of f32"),
    "shape": (
        lambda m: leaf(m, 0).update(shape=[2, 3, 5], nbytes=120),
        "weights.safetensors and the manifest differ in 'conv.weight'",
    ),
    "huge shape": (lambda m: leaf(m, 0).update(shape=[2**61] * 9), "to be the size of f32"),
    "kind": (lambda m: leaf(m, 0).update(kind="none"), "kind to be one of frozen, trained, state"),
    "gate": (lambda m: leaf(m, 1).update(kind="gate"), "norm.running.* is no gate of a tensor"),
    "perm": (lambda m: leaf(m, 0).update(perm=[0, 0, 1]), "to be a permutation of 3 axes"),
    "perm of panels": (lambda m: leaf(m, 5).update(perm=[0, 1, 2]), "a permutation of 2 axes"),
    "panels": (
        lambda m: leaf(m, 5).update(unpacked=[6, 9]),
        r"unpacked to be the shape of a tensor whose panels are \[2, 6, 4\], got \[6, 9\]",
    ),
    "panels without rows": (lambda m: leaf(m, 5).update(unpacked=[5]), "tensor whose panels are"),
    "panels of a vector": (lambda m: leaf(m, 1).update(unpacked=[1, 5]), "whose panels are"),
    "channels": (lambda m: leaf(m, 0).update(channels=[0, [4]]), "ascending indices. below 4"),
    "channels order": (lambda m: leaf(m, 0).update(channels=[0, [1, 0]]), "ascending indices"),
    "channels form": (
        lambda m: leaf(m, 0).update(channels=7),
        r"\[axis, ascending indices\], got 7",
    ),
    "two names": (lambda m: leaf(m, 1).update(name="conv.weight"), "leaves have two tensors named"),
    "renamed": (lambda m: leaf(m, 1).update(name="other"), "the manifest differ in 'norm.running'"),
    "entry name": (
        lambda m: m["entries"].update({"../x": m["entries"]["train"]}),
        "'../x' is no name of an entry point",
    ),
    "input": (lambda m: m.update(inputs=["y"]), "no entry point takes the input 'y'"),
    "samples": (
        lambda m: m["prefix"].update(samples=4),
        r"the feature features:0: f32\[2,2\] does not fit its readers",
    ),
    "uneven samples": (
        lambda m: m["prefix"].update(samples=3),
        r"the feature features:0: f32\[2,2\] does not fit its readers",
    ),
    "no reader": (
        lambda m: m["entries"]["train"]["inputs"].pop(1),
        "the feature features:0: .* does not fit its readers",
    ),
    "two places": (
        lambda m: m["entries"]["train"]["inputs"][1].update(offset=832 - 64 - 320),
        "the feature features:0: .* does not fit its readers|overlap",
    ),
    "prefix over features": (
        lambda m: m["entries"]["features"]["inputs"][0].update(offset=768),
        "'features:0' and 'x' overlap|'x' and 'features:0' overlap",
    ),
    "rows of the prefix": (
        lambda m: m["entries"]["features"]["inputs"][0].update(shape=[3, 3], nbytes=36),
        "the prefix does not take 2 samples",
    ),
    "originals": (
        lambda m: m.update(originals=["x"]),
        "source.safetensors and the manifest differ",
    ),
    "alias": (lambda m: m.update(aliases={"a": "b"}), "aliases or originals do not fit the leaves"),
    "threads": (lambda m: m.update(threads=0), "expected threads to be an integer of 1 to 4096"),
    "batch": (lambda m: m.update(batch="8"), "expected batch to be an integer of 1 .* got '8'"),
    "members": (lambda m: m["members"].pop("plan.json"), "plan.json has .* in the manifest -1"),
    "not an object": (lambda m: m.update(entries=[]), "expected entries to be an object, got "),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(path: Path, lie: str) -> None:
    change, message = LIES[lie]
    deceive(path, change)
    refuses(path, message)


def test_a_manifest_that_is_no_json_is_refused(path: Path) -> None:
    members = members_of(path)
    for text, message in [
        (b"\xff\xfe", "manifest.json is no JSON"),
        (b"[" * 100_000, "manifest.json is no JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b"1" * 10_000, "manifest.json is no JSON"),
    ]:
        resealed(path, {**members, "manifest.json": text})
        refuses(path, message)


def spots(data: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every member of a JSON value."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, inner in items if isinstance(data, (dict, list)) else ():
        yield (*trail, key)
        if isinstance(inner, (dict, list)):
            yield from spots(inner, (*trail, key))


def test_no_manifest_raises_anything_else(path: Path) -> None:
    members = members_of(path)
    manifest = json.loads(members["manifest.json"])
    junk = [None, -1, 2**70, 1.5, "x", "\ud800", [], {}, True, [[1]], {"a": None}]
    rng = np.random.default_rng(2)
    accepted = 0
    for trail in spots(manifest):
        for choice in rng.permutation(len(junk))[:2]:
            changed = json.loads(members["manifest.json"])
            holder = changed
            for key in trail[:-1]:
                holder = holder[key]
            holder[trail[-1]] = junk[int(choice)]
            resealed(path, {**members, "manifest.json": json.dumps(changed).encode()})
            accepted += accepts_or_refuses(path)
    assert accepted < 20  # texts that mean nothing to loading, and numbers that happen to fit


TENSOR_LIES = {
    "header too long": (lambda h: (2**63).to_bytes(8, "little"), "the header claims"),
    "no header": (lambda h: b"\1\0", "the header claims"),
    "gap": (lambda h: framed({"a": ("F32", [1], 4, 8)}, 8), "'a' begins at 4, expected 0"),
    "overlap": (
        lambda h: framed({"a": ("F32", [2], 0, 8), "b": ("F32", [1], 4, 8)}, 8),
        "'b' begins at 4, expected 8",
    ),
    "size": (lambda h: framed({"a": ("F32", [2], 0, 4)}, 4), "which has 8 bytes, not 4"),
    "rest": (lambda h: framed({"a": ("F32", [1], 0, 4)}, 8), "tensors end at"),
    "dtype": (lambda h: framed({"a": ("F16", [2], 0, 4)}, 4), "entry of 'a' is not understood"),
    "negative": (lambda h: framed({"a": ("F32", [-1], 0, -4)}, 0), r"has shape \[-1\]"),
    "float": (lambda h: framed({"a": ("F32", [1.0], 0, 4)}, 4), r"has shape \[1.0\]"),
    "no object": (
        lambda h: (4).to_bytes(8, "little") + b"true",
        "expected a JSON object, got bool",
    ),
    "other tensors": (lambda h: framed({"a": ("F32", [1], 0, 4)}, 4), "manifest differ in 'a'"),
}


def framed(tensors: dict[str, tuple[str, list[Any], int, int]], size: int) -> bytes:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in tensors.items()
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * size


@pytest.mark.parametrize("lie", TENSOR_LIES)
def test_weights_that_lie_are_refused(path: Path, lie: str) -> None:
    make, message = TENSOR_LIES[lie]
    members = members_of(path)
    data = make(members["weights.safetensors"])
    resealed(path, with_member(members, "weights.safetensors", data))
    refuses(path, message)


def test_weights_are_read_into_what_they_are(path: Path) -> None:
    opened = open_artifact(path)
    with pytest.raises(ArtifactError, match=r"has f32\[2, 3, 4\], not float64\[2, 3, 4\]"):
        opened.fill("conv.weight", np.empty((2, 3, 4)))


# Running.


def test_code_for_another_machine_is_not_started(path: Path) -> None:
    deceive(path, lambda m: m["target"].update(triple="riscv64-linux-gnu", cpu="sifive_u74"))
    program = load_program(path)
    expected = "was compiled for riscv64-linux-gnu with a CPU of sifive_u74; this machine is"
    with pytest.raises(ArtifactError, match=expected):
        program.start(1)


def test_code_for_a_smaller_cpu_of_the_family_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "host", lambda: Target.named("avx2"))
    check_target(vars(Target.named("avx2")))
    check_target(vars(Target.named("sse")))
    with pytest.raises(ArtifactError, match=r"CPU of x86_64_v4; this machine .* CPU of x86_64_v3"):
        check_target(vars(Target.named("avx512")))
    monkeypatch.setattr(Target, "host", lambda: Target.named("neon-linux"))
    check_target(vars(Target.named("neon-linux")))
    with pytest.raises(ArtifactError, match="compiled for aarch64-macos"):
        check_target(vars(Target.named("neon-macos")))


def test_a_machine_without_a_target_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def host() -> Target:
        raise InputError("this machine is an abacus")

    monkeypatch.setattr(Target, "host", host)
    with pytest.raises(ArtifactError, match="with a CPU of x86_64_v2; this machine is an abacus"):
        check_target(vars(Target.named("sse")))


def test_a_library_that_is_none_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not run on this machine"):
        load_program(path).start(1)


def test_a_library_altered_after_opening_is_not_loaded(path: Path) -> None:
    program = load_program(path)
    data = path.read_bytes()
    with path.open("rb+") as file:
        file.write(data.replace(b"no library", b"No library"))
    with pytest.raises(
        ArtifactError, match=r"lib/program\.so was altered while the file was in use"
    ):
        program.start(1)


def test_a_file_cut_after_opening_is_an_error(path: Path) -> None:
    program = load_program(path)
    path.write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="the file became shorter while it was read"):
        program.fill("conv.weight", np.empty((2, 3, 4), np.float32))
