"""Everything that a person can get wrong gives an error in words that says what to do."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_models import (
    CLASSES,
    ConvNet,
    Tagger,
    image_graph,
    image_program,
    images,
    seeded,
    sentences,
    tagger_graph,
)
from torch import nn

import pockengine as pe
from pockengine.errors import (
    ArtifactError,
    CompileFailedError,
    CompilerMissingError,
    ImportModelError,
    InputError,
    MemoryBudgetError,
    NonFiniteLossError,
    SchemeError,
    UnsupportedError,
)
from pockengine.ir.op import Array
from pockengine.runtime.native import NativeExecutable
from pockengine.runtime.program import Program

ONE = pe.Target.host(threads=1)


@pytest.fixture(scope="module")
def program() -> Program:
    """Batch norm of batch statistics, Adam: every kind of state there is."""
    return image_program(seeded(ConvNet, training=True), optimizer="adam")


@pytest.fixture(scope="module")
def tagger() -> Program:
    return pe.compile(tagger_graph(seeded(Tagger)), optimizer="adam", batch=4, target=ONE)


def everything(session: pe.Session) -> dict[str, bytes]:
    """The bits of every tensor that lives between steps."""
    leaves = session.signature.leaves.values()
    return {leaf.name: leaf.view(session._arena).tobytes() for leaf in leaves}


# ---- models --------------------------------------------------------------------------------------


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real + torch.linalg.det(x)[:, None, None]


def test_unsupported_operators_of_pytorch() -> None:
    with pytest.raises(UnsupportedError) as caught:
        pe.import_torch(Strange(), torch.zeros(2, 3, 3))
    text = str(caught.value)
    assert "nodes use operators that pockengine does not support" in text
    assert "fft" in text and "det" in text and "test_bad_input.py:" in text
    assert "Replace these parts of the model, or freeze and cut the model before them." in text


def test_unsupported_operators_of_onnx() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.other" : 1]>\n'
        "g (float[N, 4] x) => (float[N, 4] y) { a = com.other.Wobble(x)\n y = com.other.Wobble(a) }"
    )
    with pytest.raises(UnsupportedError, match=r"2 x com.other[.:]+Wobble"):
        pe.import_onnx(model)


def test_an_onnx_file_that_was_cut_short(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) '
        "{ y = Relu(x) }"
    )
    path = tmp_path / "short.onnx"
    path.write_bytes(model.SerializeToString()[:-7])
    with pytest.raises(ImportModelError, match=r"short.onnx"):
        pe.import_onnx(path)


# ---- schemes and budgets -------------------------------------------------------------------------


def test_schemes_that_name_nothing() -> None:
    graph = image_graph(seeded(ConvNet))
    with pytest.raises(SchemeError, match=r"'haed\..' names no parameter of the model; close ones"):
        pe.UpdateScheme.select(graph, {"haed.*": True})
    with pytest.raises(SchemeError, match="the scheme trains nothing; name at least one parameter"):
        pe.compile(graph, scheme=pe.UpdateScheme({}), batch=4, target=ONE)
    with pytest.raises(SchemeError, match=r"'haed.bias' names no parameter.*close ones.*head.bias"):
        pe.compile(graph, scheme=pe.UpdateScheme({"haed.bias": 1.0}), batch=4, target=ONE)
    with pytest.raises(SchemeError, match=r"do not depend on 'unused.weight'|names no parameter"):
        pe.compile(graph, scheme=pe.UpdateScheme({"unused.weight": 1.0}), batch=4, target=ONE)


def test_a_memory_budget(program: Program) -> None:
    def within(budget: int) -> Program:
        target = pe.Target.host(threads=1, memory_budget=budget)
        return image_program(seeded(ConvNet, training=True), optimizer="adam", target=target)

    assert within(program.peak_bytes).peak_bytes == program.peak_bytes
    least = f"{program.peak_bytes:,}"
    message = (
        f"takes {least} bytes, 1 more than the memory budget of {program.peak_bytes - 1:,}; the "
        f"least that would do for this model, batch size and scheme is {least}. Train fewer tensors"
    )
    with pytest.raises(MemoryBudgetError, match=message):
        within(program.peak_bytes - 1)


@pytest.mark.parametrize("settings", [{"batch": 0}, {"accumulate": 0}])
def test_sizes_below_one(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="batch and accumulate must be at least 1, got"):
        image_program(seeded(ConvNet), **settings)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(
        InputError, match="no loss is named 'crossentropy'; there are cross_entropy"
    ):
        image_program(seeded(ConvNet), loss="crossentropy")
    with pytest.raises(InputError, match=r"'sdg'.*sgd"):
        image_program(seeded(ConvNet), optimizer="sdg")


# ---- arrays --------------------------------------------------------------------------------------

X, Y = images(4)
WRONG: list[tuple[Any, Any, str]] = [
    (X[:, :2], Y, r"'x' expects shape \[samples, 3, 12, 12\], got \[4, 2, 12, 12\]"),
    (X[0], Y, r"'x' expects shape \[samples, 3, 12, 12\], got \[3, 12, 12\]"),
    (X[:0], Y[:0], "train takes 1 to 4 samples, got 0"),
    (images(5)[0], images(5)[1], "train takes 1 to 4 samples, got 5"),
    (X, Y[:3], "inputs have different numbers of samples: 'x' 4, 'target' 3"),
    (X, Y[:, None], r"'target' expects shape \[samples\], got \[4, 1\]"),
    (X.astype(np.uint8), Y, "'x' expects float32, got uint8; convert it first"),
    (X.astype(complex), Y, "'x' expects float32, got complex128; convert it first"),
    (X, Y.astype(np.float32), "'target' expects int64, got float32; convert it first"),
    (X, Y.astype(str), "'target' expects int64, got <U21; convert it first"),
    (X, None, "train needs labels or targets as its second argument"),
    (X, [0, 1, 2, CLASSES], "labels must lie in 0..4, got 5 at position 3"),
    (X, [0, -1, 2, 3], "labels must lie in 0..4, got -1 at position 1"),
    (
        X,
        np.array([0, 1, 2, 2**63], np.uint64),
        "'target' expects int64, got numbers from 0 to 9223",
    ),
    ([[1.0], [1.0, 2.0]], Y, "'x' cannot be read as an array"),
    ((X, X), Y, "the model takes the inputs x; got 2 arrays"),
    ({"x": X, "mask": X}, Y, "the model takes the inputs x; got x, mask"),
    ({}, Y, "the model takes the inputs x; got none"),
]


@pytest.mark.parametrize(("x", "y", "message"), WRONG)
def test_arrays_that_do_not_fit(x: Any, y: Any, message: str, program: Program) -> None:
    with pe.Session(program) as session:
        before = everything(session)
        with pytest.raises(InputError, match=message):
            session.step(x, y)
        assert everything(session) == before


@pytest.mark.parametrize("weight", [np.ones(3), -np.ones(4), [1, 1, 1, np.nan], "heavy", [[1] * 4]])
def test_weights_that_do_not_fit(weight: Any, program: Program) -> None:
    with pe.Session(program) as session:
        with pytest.raises(InputError, match="weights must be 4 finite numbers of at least 0, got"):
            session.step(X, Y, weight=weight)
        with pytest.raises(InputError, match="weights must be 4 finite numbers of at least 0, got"):
            session.evaluate(X, Y, weight)


@pytest.mark.parametrize("lr", [-1.0, np.nan, np.inf])
def test_learning_rates_that_are_none(lr: float, program: Program) -> None:
    with pe.Session(program) as session, pytest.raises(InputError, match="a finite number of at l"):
        session.step(X, Y, lr)


def test_no_samples_to_judge(program: Program) -> None:
    with pe.Session(program) as session:
        with pytest.raises(InputError, match="evaluate needs at least one sample"):
            session.evaluate(X[:0], Y[:0])
        with pytest.raises(InputError, match="predict needs at least one sample"):
            session.predict(X[:0])


def test_an_entry_point_that_is_not_there(program: Program) -> None:
    with pytest.raises(InputError, match="no entry point 'accumulate'; it has train, evaluate"):
        program.entry("accumulate")


def test_labels_are_checked_natively_too(program: Program) -> None:
    unchecked = replace(program, signature=replace(program.signature, classes=None))
    with pe.Session(unchecked) as session:
        before = everything(session)
        for call in (session.step, session.evaluate):
            with pytest.raises(InputError, match="a label or an index is out of the range of what"):
                call(X, [0, 1, 2, CLASSES])
            with pytest.raises(InputError, match="a label or an index is out of the range of what"):
                call(X, [0, -(2**62), 2, 1])
        assert everything(session) == before
        assert session.step(X, Y) > 0


@pytest.mark.parametrize("token", [30, -31, 2**40, -(2**63)])
def test_tokens_out_of_the_table(token: int, tagger: Program) -> None:
    ids, mask, y = sentences(4)
    bad = ids.copy()
    bad[2, 3] = token
    with pe.Session(tagger) as session:
        before = everything(session)
        with pytest.raises(
            InputError, match="a label or an index is out of the range of what it l"
        ):
            session.step((bad, mask), y)
        assert everything(session) == before
        with pytest.raises(InputError, match="predict was refused: a label or an index is out of"):
            session.predict((bad, mask))
        assert session.step((ids, mask), y) > 0


# ---- losses that are no numbers ------------------------------------------------------------------


def spoilt(value: float = np.nan) -> Array:
    made = X.copy()
    made[1, 2, 3, 4] = value
    return made


@pytest.mark.parametrize("backend", ["c", "numpy"])
@pytest.mark.parametrize("bad", [spoilt(np.nan), spoilt(-np.inf)])
def test_a_loss_that_is_no_number_changes_nothing(backend: Any, bad: Array) -> None:
    model = seeded(ConvNet, training=True)
    target = pe.Target.host(backend=backend, threads=1)
    with pe.Session(image_program(model, optimizer="adam", target=target)) as session:
        session.step(X, Y)
        before = everything(session)
        message = (
            "the loss is NaN or infinite; the weights are as they were before this step. Use a"
        )
        with pytest.raises(NonFiniteLossError, match=message), np.errstate(all="ignore"):
            session.step(bad, Y)
        assert everything(session) == before
        assert np.isfinite(session.step(X, Y))


def test_a_refused_batch_does_not_count_as_accumulated() -> None:
    with pe.Session(image_program(seeded(ConvNet, training=True), accumulate=2)) as session:
        session.step(X, Y)
        before = everything(session)
        with pytest.raises(NonFiniteLossError):
            session.step(spoilt(), Y)
        assert everything(session) == before
        session.step(X, Y)
        after = everything(session)
        assert after["head.weight"] != before["head.weight"]
        with pytest.raises(NonFiniteLossError):  # now as the first of two
            session.step(spoilt(), Y)
        assert everything(session) == after


# ---- compilers and files -------------------------------------------------------------------------


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKENGINE_CC", "/nowhere/cc")
    with pytest.raises(
        CompilerMissingError, match="POCKENGINE_CC is '/nowhere/cc', which does not"
    ):
        image_program(seeded(ConvNet))


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hide = {"ziglang"}
    monkeypatch.delenv("POCKENGINE_CC", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in hide else found(n, *a)
    )
    with pytest.raises(
        CompilerMissingError, match="run `pip install ziglang`, or set POCKENGINE_CC"
    ):
        image_program(seeded(ConvNet))


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pockengine.backends.c.emit", lambda *_: "int no c at all;")
    with pytest.raises(CompileFailedError, match=r"failed with status 1:\n.*error"):
        image_program(seeded(ConvNet))


def test_a_file_for_another_machine(tmp_path: Path) -> None:
    other = "neon-linux" if ONE.triple.startswith("x86") else "avx2"
    program = image_program(seeded(ConvNet), target=pe.Target.named(other))
    path = tmp_path / "other.pock"
    program.save(path)
    with pytest.raises(
        ArtifactError, match=r"compiled for .*; this machine is .*Compile it for this"
    ):
        pe.Session.load(path)
    with pytest.raises(ArtifactError, match="the native code does not run on this machine"):
        pe.Session(program)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none.pock cannot be opened: No such file"):
        pe.Session.load(tmp_path / "none.pock")


def test_a_damaged_file(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "program.pock"
    program.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ArtifactError, match=r"was cut short.*copy the file again, or compile again"
    ):
        pe.Session.load(path)
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(ArtifactError, match=r"was altered.*copy the file again, or compile again"):
        pe.Session.load(path)


def test_code_of_another_plan(program: Program) -> None:
    library = program.code.library  # type: ignore[attr-defined]
    for entries, size, message in (
        (["train"], program.peak_bytes + 64, "was compiled for another memory plan; compile again"),
        (["dream"], program.peak_bytes, "the native code has no entry point 'dream'"),
    ):
        with pytest.raises(ArtifactError, match=message):
            NativeExecutable(library, entries, size, 1)


def test_more_memory_than_there_is(program: Program) -> None:
    huge = replace(program, signature=replace(program.signature, arena_bytes=2**62))
    with pytest.raises(
        MemoryBudgetError, match="takes 4,611,686,018,427,387,904 bytes, which this"
    ):
        pe.Session(huge)
