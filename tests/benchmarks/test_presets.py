"""The presets' evidence: what is known is not trained again, and the page shows the library."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.presets import PAGE, PARTS, Evidence, _place_of
from benchmarks.schemes.record import Record, described
from benchmarks.schemes.training import Run
from torch import nn

import pockengine as pe
from benchmarks import render
from pockengine import presets
from pockengine.presets import Preset

RUNS = [
    Run(f, s, 0.9 - f / 100, 0.5 + s / 10).to_json() for f, s in ((1, 0), (3, 0), (1, 1), (1, 2))
]


@pytest.fixture
def task() -> Any:
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(4)]
    model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(16, 3)).eval()
    return SimpleNamespace(
        name="net/one", family="net", graph=pe.import_torch(model, torch.zeros(2, 16)),
        optimizer=pe.SGD(), lr=0.1, batch=4, epochs=2, train=[1] * 9, validation=[1], test=[1, 2],
    )  # fmt: skip


def known_of(task: Any, scheme: pe.UpdateScheme) -> dict[str, Any]:
    row = {"shares": [scheme.shares], "extra_bytes": 5, "runs": RUNS}
    return {"tasks": {task.name: {**described(task), "schemes": {"searched": row}}}}


def evidence(tmp_path: Path, known: dict[str, Any]) -> Evidence:
    return Evidence(Record(tmp_path / "figures.json"), known)


def test_runs_of_the_same_scheme_are_taken_over(task: Any, tmp_path: Path) -> None:
    scheme = pe.UpdateScheme.head_only(task.graph) | pe.UpdateScheme({"0.3.0.weight": 0.5})
    row = evidence(tmp_path, known_of(task, scheme))._row(task, "own", scheme)
    assert row["runs"] == RUNS
    assert row["extra_bytes"] > 0 and row["extra_bytes"] != 5  # planned anew
    assert row["shares"] == [scheme.shares]


def test_other_schemes_and_other_recipes_are_trained(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, Any]] = []

    def train(self: Record, task: Any, row: dict[str, Any], seeds: Any) -> None:
        trained.extend(() if row["runs"] else row["shares"])

    monkeypatch.setattr(Record, "train", train)
    head = pe.UpdateScheme.head_only(task.graph)
    scheme = head | pe.UpdateScheme({"0.3.0.weight": 0.5})
    known = known_of(task, scheme)
    evidence(tmp_path, known)._row(task, "head", head)
    assert trained == [head.shares]
    known["tasks"][task.name]["recipe"] = "another"
    evidence(tmp_path, known)._row(task, "own", scheme)
    assert trained == [head.shares, scheme.shares]


def test_a_tensor_has_a_place(task: Any) -> None:
    assert _place_of(task.graph, "0.1.0.weight") == {"block": -4, "weight": 0}


def test_tables() -> None:
    figures = {kind: {"extra_bytes": n, "accuracy": [50.0, 51.0, 52.0]} for kind, n in
               (("head", 1), ("preset", 20), ("full", 100))}  # fmt: skip
    found = {"found_on": "net/one", "measured": {"net/one": figures}}
    place = presets.Place(-1, 0, "matrix")
    preset = Preset("own", "Mine.", 3, (place, replace(place, block=-2)), found)
    table = PARTS["presets"]({"presets": [preset]})
    assert (
        "| `own` | Mine | biases of 3 blocks, 2 weights in 2 blocks | by analysis on net" in table
    )
    table = PARTS["accuracies"]({"presets": [preset]})
    assert "| `own` | net/one | 51.0 ± 1.0 | 51.0 ± 1.0 | 51.0 ± 1.0 | 1 / 5.0 |" in table


def test_the_page_shows_the_library() -> None:
    page, figures = PAGE.read_text(), {"presets": [presets.load(name) for name in presets.NAMES]}
    assert all(f"<!-- figures: {part} -->" in page for part in PARTS)
    assert render.rendered(page, figures, PARTS) == page
