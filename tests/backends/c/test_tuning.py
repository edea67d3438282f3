"""Kernels chosen by measuring."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pockengine as pe
from pockengine.backends.c import calls, matmul_calls, tuning
from pockengine.backends.c.call import Call
from pockengine.backends.c.emit import with_kernels
from pockengine.compiler import schedule
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule
from pockengine.ops.build import matmul, relu, reshape
from pockengine.ops.panels import FromPanels
from pockengine.panels import to_panels
from pockengine.target import Target

TARGET = Target.host(threads=1)  # nothing waits for a thread that has no processor


def _two(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
    """A product done over and over, and the same done once."""
    (call,) = matmul_calls.matmul(value, x, target)[:1]
    return _slowed(call), replace(call, variant="fast")


def _slowed(call: Call) -> Call:
    return replace(call, pack=call.pack * 50, body=call.body * 50, variant="slow")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, but for the kernels; two kernels for a product."""
    monkeypatch.setitem(calls._SEVERAL, "matmul", _two)
    monkeypatch.setattr(tuning, "cache_dir", lambda: tmp_path)
    return tmp_path


def product(rows: int = 40, weights: bool = False) -> Schedule:
    x = leaf(Input, "x", np.zeros((rows, 64), np.float32))
    w = leaf(Param if weights else Input, "w", np.zeros((64, 48), np.float32))
    inputs = (x,) if weights else (x, w)
    data = {"w": np.zeros((64, 48), np.float32)}
    return schedule(Graph(inputs, {"y": relu(matmul(x, w))}, {}, data), TARGET)


def only_record(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_the_fastest_is_chosen_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = product()
    assert [(s.variant, s.measured) for s in first.steps] == [("slow", False)]
    choices = tuning.tune([first, product()], TARGET)
    assert list(choices.values()) == ["fast"]
    again = with_kernels(first, TARGET, choices)
    assert [(s.variant, s.measured) for s in again.steps] == [("fast", True)]
    record = json.loads(only_record(folder).read_text())["microseconds"]
    ((name, times),) = record.items()
    assert name == "MatMul(transpose_a=False, transpose_b=False) (f32[40,64], f32[64,48])"
    assert 0 < times["fast"] < times["slow"]
    monkeypatch.setattr(tuning, "_run", None)  # nothing is measured twice
    assert tuning.tune([product()], TARGET) == choices


def test_what_is_new_is_measured_beside_what_is_known(folder: Path) -> None:
    tuning.tune([product()], TARGET)
    known = json.loads(only_record(folder).read_text())["microseconds"]
    tuning.tune([product(), product(rows=7, weights=True)], TARGET)
    now = json.loads(only_record(folder).read_text())["microseconds"]
    assert len(now) == 2 and now.items() >= known.items()


def test_a_variant_that_the_record_lacks_is_measured(folder: Path) -> None:
    tuning.tune([product()], TARGET)
    path = only_record(folder)
    record = json.loads(path.read_text())
    ((name, _),) = record["microseconds"].items()
    record["microseconds"][name] = {"slow": 1.0}
    path.write_text(json.dumps(record))
    assert tuning.tune([product()], TARGET) == {name: "fast"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "other"}', '{"format": "pockengine.tuning 1"}', "\xff"]
)
def test_a_damaged_record_is_said_and_replaced(folder: Path, text: str) -> None:
    tuning.tune([product()], TARGET)
    only_record(folder).write_text(text, encoding="latin-1")
    with pytest.warns(UserWarning, match="no tuning record .* measuring again"):
        choices = tuning.tune([product()], TARGET)
    assert list(choices.values()) == ["fast"]
    assert tuning.tune([product()], TARGET) == choices


def test_nothing_to_choose_writes_nothing(folder: Path) -> None:
    x = leaf(Input, "x", np.zeros((4, 4), np.float32))
    assert tuning.tune([schedule(Graph((x,), {"y": relu(x)}), TARGET)], TARGET) == {}
    assert not list(folder.iterdir())


def test_weights_in_panels_are_another_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(value: Value, x: list[str], target: Target) -> tuple[Call, ...]:
        (call,) = matmul_calls.matmul_panels(value, x, target)[:1]
        return _slowed(call), replace(call, variant="fast")

    monkeypatch.setitem(calls._SEVERAL, "matmul_panels", two)
    x = leaf(Input, "x", np.zeros((40, 64), np.float32))
    data = {"p": to_panels(np.zeros((64, 48), np.float32), TARGET.nr)}
    p = leaf(Param, "p", data["p"])
    y = matmul(x, reshape(FromPanels((1, 64, 48))(p), (64, 48)))
    choices = tuning.tune([schedule(Graph((x,), {"y": y}, {}, data), TARGET)], TARGET)
    ((name, variant),) = choices.items()
    assert "f32[64,48] in panels" in name and variant == "fast"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target.named("neon-macos"), "tuning measures on this machine, but .* or do not tune"),
        (Target.host(backend="numpy"), "only programs in C are tuned, not those of 'numpy'"),
    ],
)
def test_other_machines_are_refused(target: Target, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tuning.tune([], target)


def test_a_tuned_program_computes_the_same(tmp_path: Path) -> None:
    x = leaf(Input, "x", np.zeros((1, 6), np.float32))
    data = {"w": np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)}
    w = leaf(Param, "w", data["w"])
    graph = Graph((x,), {"y": matmul(x, w)}, {}, data)
    rows = np.random.default_rng(1).standard_normal((1, 6)).astype(np.float32)
    answers, variants = [], []
    for choose in (False, True):
        program = pe.compile(graph, batch=1, target=TARGET, tune=choose)
        with pe.Session(program) as session:
            answers.append(session.predict(rows))
        steps = program.plan.entries["predict"].schedule.steps
        variants += [(step.variant, step.measured) for step in steps if step.variant]
    np.testing.assert_array_equal(*answers)
    assert variants == [("slow", False), ("fast", True)]
