"""The comparison of update schemes: its choices at equal memory, its runs, and its tables."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.schemes import choose, tables
from benchmarks.schemes.record import Record, runs_of
from benchmarks.schemes.training import Run, better_factor, counted, missing_runs
from torch import nn

import pockengine as pe
from benchmarks import render
from pockengine.analysis.candidates import candidates
from pockengine.errors import InputError
from pockengine.ir.graph import Graph

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def graph() -> Graph:
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(4)]
    model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(16, 3)).eval()
    return pe.import_torch(model, torch.zeros(2, 16))


def numbers(graph: Graph) -> choose.Extra:
    """As a stand-in for bytes, how many numbers a scheme trains."""

    def count(scheme: pe.UpdateScheme) -> int:
        total = 0
        for name, channels in scheme.resolve(graph).items():
            type_ = graph.params[name].type
            share = len(channels.indices) / type_.shape[channels.axis] if channels else 1
            total += round(type_.size * share)
        return total

    return count


# Choosing


def test_as_many_last_blocks_as_fit(graph: Graph) -> None:
    extra = numbers(graph)
    two = pe.UpdateScheme.last_blocks(graph, 2)
    assert choose.last_blocks(graph, extra, extra(two)).shares == two.shares
    assert choose.last_blocks(graph, extra, extra(two) + 1).shares == two.shares
    fewer = choose.last_blocks(graph, extra, extra(two) - 1)
    assert fewer.shares.keys() < two.shares.keys()
    head = pe.UpdateScheme.head_only(graph)
    assert choose.last_blocks(graph, extra, 0).shares == head.shares


def test_a_random_scheme_fills_its_budget_and_not_more(graph: Graph) -> None:
    extra, limit = numbers(graph), 600
    found = [choose.random_scheme(graph, extra, limit, seed) for seed in range(8)]
    assert all(extra(scheme) <= limit for scheme in found)
    assert len({json.dumps(scheme.shares) for scheme in found}) > 4
    again = choose.random_scheme(graph, extra, limit, 0)
    assert again.shares == found[0].shares
    head, names = pe.UpdateScheme.head_only(graph), {c.name for c in candidates(graph)}
    for scheme in found:
        assert head.shares.keys() < scheme.shares.keys()
        assert names & scheme.shares.keys()
    whole = choose.random_scheme(graph, extra, 10**9, 0)
    assert names < whole.shares.keys()


# Runs


def test_the_learning_rate_is_chosen_with_the_first_seed_by_validation() -> None:
    first = [Run(1.0, 0, 0.8, 0.9), Run(3.0, 0, 0.85, 0.7)]
    assert missing_runs([], SEEDS) == [(1.0, 0), (3.0, 0)]
    assert missing_runs(first[:1], SEEDS) == [(3.0, 0)]
    assert missing_runs(first, SEEDS) == [(3.0, 1), (3.0, 2)]
    assert counted(first, SEEDS) == []
    runs = [*first, Run(3.0, 1, 0.1, 0.6), Run(3.0, 2, 0.1, 0.8)]
    assert missing_runs(runs, SEEDS) == []
    assert [run.test for run in counted(runs, SEEDS)] == [0.7, 0.6, 0.8]


def test_of_equal_rates_the_smaller_is_taken() -> None:
    assert better_factor([Run(3.0, 0, 0.8, 0.0), Run(1.0, 0, 0.8, 0.0)], 0) == 1.0


def task_of(lr: float) -> Any:
    return SimpleNamespace(
        name="net/one", family="net", optimizer="SGD", lr=lr, batch=4, epochs=2, train=[1] * 9,
        validation=[1], test=[1, 2],
    )  # fmt: skip


def test_a_stopped_run_goes_on_and_another_recipe_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    row: dict[str, Any] = {}
    record = Record(path)
    record.task(task_of(0.1))["schemes"]["full"] = row
    record.add_run(row, Run(1.0, 0, 0.5, 0.25))
    known = Record(path).task(task_of(0.1))
    assert runs_of(known["schemes"]["full"]) == [Run(1.0, 0, 0.5, 0.25)]
    assert known["samples"] == [9, 1, 2]
    assert Record(path).task(task_of(0.2))["schemes"] == {}


def test_schemes_of_fewer_seeds_than_are_asked_for(tmp_path: Path) -> None:
    found = {"shares": [{"a": 1.0}, {"a": 0.5}]}
    with pytest.raises(InputError, match="schemes for 2 seeds, not 3; ask for fewer"):
        Record(tmp_path / "figures.json").train(task_of(0.1), found, (0, 1, 2))


# Tables


def row(tests: tuple[float, ...], extra: int) -> dict[str, Any]:
    runs = [Run(1.0, seed, 0.9, test) for seed, test in enumerate(tests)]
    other = Run(3.0, 0, 0.1, 0.0)
    return {"runs": [run.to_json() for run in (*runs, other)], "extra_bytes": extra}


@pytest.fixture
def figures() -> dict[str, Any]:
    tests = {
        "head": (0.4, 0.4, 0.4),
        "biases": (0.9, 0.9, 0.9),
        "last": (0.5, 0.5, 0.5),
        "random": (0.6, 0.6, 0.6),
        "searched": (0.7, 0.8, 0.9),
        "full": (0.8, 0.8, 0.95),
    }
    schemes = {m: row(t, 500_000 if m == "full" else 100_000) for m, t in tests.items()}
    schemes["full"]["step_ms"] = 1.25
    schemes |= {"reused": row((0.7, 0.7, 0.7), 1)}
    agreement = {"fisher": 0.5, "weight_norm": -0.25}
    check = {"predicted": 0.37, "measured": 0.15, "interval": [0.1, 0.2]}
    one = {
        "family": "net",
        "recipe": "SGD",
        "samples": [9, 1, 2],
        "schemes": schemes,
        "analysis": {"seconds": 3.2, "agreement": agreement},
        "check": check,
    }
    begun = {"full": row((0.5, 0.6), 3_000_000)}
    two = {"family": "net", "recipe": "SGD", "samples": [1, 1, 1], "schemes": begun}
    return {"tasks": {"net/one": one, "net/two": two}}


def test_the_summary_says_what_is_lost_and_won(figures: dict[str, Any]) -> None:
    said = tables.summary(figures)
    assert "1 tasks. Searched less full: -5.00 points on average; extra memory 5.0 times" in said
    assert (
        "Searched less all biases: -10.00 points on average; better on 0 tasks, worse on 1" in said
    )
    assert "Searched less random: +20.00 points on average; better on 1 tasks, worse on 0" in said
    assert tables.summary({"tasks": {}}) == "Nothing has been measured.\n"


def test_accuracies_are_of_the_better_rate_with_their_deviation(figures: dict[str, Any]) -> None:
    page = tables.PARTS["accuracy"](figures)
    full = "85.0 ± 8.7"
    assert (
        f"| net/one | 40.0 ± 0.0 | 90.0 ± 0.0 | 50.0 ± 0.0 | 60.0 ± 0.0 | 80.0 ± 10.0 | {full} |"
        in page
    )
    assert "| net/two | - | - | - | - | - | 55.0 ± 7.1 |" in page
    assert "| net (1) | 40.00 | 90.00 | 50.00 | 60.00 | 80.00 | 85.00 | 5.0x |" in tables.averages(
        figures
    )


def test_other_tables(figures: dict[str, Any]) -> None:
    assert "| net/one | 80.0 ± 10.0 | 70.0 ± 0.0 |" in tables.PARTS["reuse"](figures)
    assert "| mean difference |  | -10.00 |" in tables.PARTS["reuse"](figures)
    assert tables.PARTS["channels"](figures) == "Nothing has been measured.\n"
    assert "| 0.1 | 0.1 | 0.1 | 0.1 | 0.1 | 0.5 |" in tables.PARTS["extra"](figures)
    assert "| net/one | - | - | - | - | - | 1.25 |" in tables.PARTS["steps"](figures)
    analyses = tables.PARTS["analyses"](figures)
    assert "| net/one | +0.50 | -0.25 | +0.370 | +0.150 [+0.100, +0.200] |" in analyses
    assert "| mean | +0.50 | -0.25 |  |  |" in analyses


@pytest.mark.parametrize("part", tables.PARTS)
def test_every_part_is_on_the_page(part: str, figures: dict[str, Any]) -> None:
    page = tables.PAGE.read_text()
    assert f"<!-- figures: {part} -->" in page
    assert render.rendered(page, figures, tables.PARTS)
