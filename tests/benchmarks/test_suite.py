"""The benchmark suite: its arithmetic, its tables, and a short run beside PyTorch alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.contenders import CONTENDERS, OURS

from benchmarks import render, summary

ROOT = Path(__file__).parents[2]
EAGER = "PyTorch eager"


def cell(ms: float, resident: int) -> dict[str, Any]:
    return {
        "median_ms": ms,
        "quartiles_ms": [ms, ms, ms],
        "memory_growth": {"resident": resident, "own": resident},
        "planned_bytes": resident,
        "weights_bytes": 1,
    }


@pytest.fixture
def figures() -> dict[str, Any]:
    schemes = {
        "full": {OURS: cell(2, 20), EAGER: cell(10, 80), summary.TENSORFLOW: cell(8, 90)},
        "sparse": {OURS: cell(1, 10), EAGER: cell(5, 40), summary.TENSORFLOW: {"missing": "why"}},
    }
    ratios, memory = summary.ratios(schemes), summary.memory(schemes)
    about = {"name": "net", "title": "a network", "micro_batch": {"full": 4}}
    workload = {**about, **schemes, "ratios": ratios, "memory": memory}
    return {"workloads": [workload], "commit": "0" * 40, "date": "today", **summary.machine(2)}


def test_ratios_keep_the_two_gains_apart(figures: dict[str, Any]) -> None:
    ratios = figures["workloads"][0]["ratios"]
    assert (ratios["best_peer_full"], ratios["best_peer_sparse"]) == (summary.TENSORFLOW, EAGER)
    assert (ratios["engine_gain_full"], ratios["engine_gain_sparse"]) == (4.0, 5.0)
    gains = ratios["engine_gain_full"] * ratios["sparsity_gain"]
    assert ratios["sparse_vs_best_peer_full"] == gains == 8.0
    assert ratios["sparse_vs_tensorflow_full"] == 8.0


def test_memory_is_set_beside_pytorchs(figures: dict[str, Any]) -> None:
    memory = figures["workloads"][0]["memory"]
    assert memory["pytorch_full_over_ours_sparse_resident"] == 8.0
    assert memory["pytorch_sparse_over_ours_sparse_own"] == 4.0


def test_the_page_is_written_between_its_marks(figures: dict[str, Any]) -> None:
    page = "before\n<!-- figures: speed -->\nold\n<!-- end -->\nafter\n"
    written = render.rendered(page, figures)
    assert written.startswith("before\n") and written.endswith("after\n")
    assert "old" not in written
    row = "| a network | 2 ms, 4 at a time | 1 ms | 4.00x TensorFlow graph | 5.00x PyTorch eager |"
    assert row in written
    assert render.rendered(written, figures) == written


@pytest.mark.parametrize("part", render.PARTS)
def test_every_part_is_on_the_page(part: str, figures: dict[str, Any]) -> None:
    assert f"<!-- figures: {part} -->" in render.PAGE.read_text()
    assert render.PARTS[part](figures)


def test_the_plot_is_the_same_for_the_same_figures(figures: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        render.plot(figures, tmp_path / name)
    assert "a network" in (tmp_path / "one.svg").read_text()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--peer", "eager"]
    done = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (workload,) = json.loads(path.read_text())["workloads"]
    for scheme in ("full", "sparse"):
        assert set(workload[scheme]) == {OURS, EAGER} < set(CONTENDERS)
        losses = [c["first_loss"] for c in workload[scheme].values()]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert workload["ratios"]["engine_gain_full"] > 0
    if sys.platform == "linux":
        assert workload["full"][OURS]["memory_growth"]["own"] > 0
