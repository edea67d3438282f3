"""The library call: what is measured, that it is the same every time, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_task
import torch
from pytest import approx
from torch import nn

import pockengine as pe
from pockengine.analysis.candidates import candidates, start_scheme
from pockengine.analysis.journal import digest
from pockengine.analysis.trials import Progress
from pockengine.errors import AnalysisError, InputError, MemoryBudgetError
from pockengine.ir.graph import Graph

SETTINGS = {"lr": 0.2, "fast": True}
pytestmark = pytest.mark.filterwarnings("ignore:no contribution can be told from zero")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return small_task.graph()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("analysis")


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def analysis(graph: Graph, folder: Path, told: list[Progress]) -> pe.Analysis:
    return pe.analyze(
        graph, small_task.samples(), folder=folder, workers=2, progress=told.append, **SETTINGS
    )


def test_every_tensor_is_measured_whole_and_the_better_ones_more(
    analysis: pe.Analysis, graph: Graph
) -> None:
    names = [c.name for c in candidates(graph)]
    assert [c.name for c in analysis.contributions if c.ratio == 1.0] == names
    assert any(c.ratio < 1.0 for c in analysis.contributions)
    counts = {len(c.deltas) for c in analysis.contributions}
    assert counts == {1, 2}
    assert analysis.starts[0].last == 0 and len(analysis.starts) == 3
    assert all(len(start.scores) == 2 for start in analysis.starts)
    assert analysis.last == max(analysis.starts, key=lambda start: start.mean).last


def test_a_contribution_is_the_difference_to_the_common_start(
    analysis: pe.Analysis, folder: Path
) -> None:
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines()[1:])
    scores = {(json.dumps(row["shares"]), row["seed"]): row["metrics"] for row in lines}
    start = next(s for s in analysis.starts if s.last == analysis.last)
    base = pe.UpdateScheme.head_only(analysis.known_graph).shares
    if analysis.last:
        base |= pe.UpdateScheme.biases(analysis.known_graph, analysis.last).shares
    for c in analysis.contributions:
        shares = json.dumps(dict(sorted({**base, c.name: c.ratio}.items())))
        for n, delta in enumerate(c.deltas):
            seed = analysis.settings.seeds[n]
            assert delta == approx(scores[shares, seed]["accuracy"] - start.scores[n])


def test_progress_comes_to_an_end(analysis: pe.Analysis, told: list[Progress]) -> None:
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done <= told[-1].expected
    assert told[0].stage == "compiling"
    assert "each tensor, whole" in {p.stage for p in told}
    assert all(p.seconds_left >= 0 for p in told)


def test_one_worker_finds_what_two_find(analysis: pe.Analysis, graph: Graph) -> None:
    again = pe.analyze(graph, small_task.samples(), workers=1, **SETTINGS)
    assert again.gains == analysis.gains
    assert again.starts == analysis.starts


def test_a_stopped_analysis_goes_on(
    analysis: pe.Analysis, graph: Graph, folder: Path, tmp_path: Path
) -> None:
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    kept = lines[: len(lines) // 2]
    (tmp_path / "journal.jsonl").write_text("".join(kept) + lines[len(kept)][:40])
    again = pe.analyze(graph, small_task.samples(), folder=tmp_path, workers=2, **SETTINGS)
    assert again.gains == analysis.gains
    after = (tmp_path / "journal.jsonl").read_text().splitlines(keepends=True)
    assert after[: len(kept)] == kept and len(after) == len(lines)


def test_it_goes_into_a_file_and_back(analysis: pe.Analysis, graph: Graph, tmp_path: Path) -> None:
    analysis.save(tmp_path / "analysis.json")
    loaded = pe.Analysis.load(tmp_path / "analysis.json", graph)
    assert loaded == analysis
    assert loaded.gains == analysis.gains


def test_a_search_keeps_its_budget(analysis: pe.Analysis, graph: Graph) -> None:
    searcher = analysis.searcher()
    head, full = map(searcher.oracle, (searcher.space.head, pe.UpdateScheme.full(graph)))
    between = (head.memory_bytes + full.memory_bytes) // 2
    found = searcher.find(between)
    assert found.cost.memory_bytes <= between
    assert found.cost == searcher.oracle(found)
    assert found.gain <= found.bound + 1e-9
    assert found.gain == approx(analysis.predict(found))
    with pytest.raises(MemoryBudgetError, match=f"takes {head.memory_bytes:,}, the least"):
        analysis.search(memory=head.memory_bytes - 1)
    with pytest.raises(InputError, match="a time budget needs a time model"):
        searcher.find(step_ms=1.0)


def test_predictions_lie_on_lines_between_what_was_measured(
    analysis: pe.Analysis, graph: Graph
) -> None:
    head = pe.UpdateScheme.head_only(graph)
    assert analysis.predict(head) == 0.0
    biases = max(analysis.bias_gains)
    everywhere = head | pe.UpdateScheme.biases(graph)
    assert analysis.predict(everywhere) == approx(analysis.bias_gains[biases])
    (name, ratio), gain = next(item for item in analysis.gains.items() if item[0][1] == 1.0)
    assert analysis.predict(head | pe.UpdateScheme({name: ratio})) == approx(gain)


def test_a_validation_set_of_ones_own_and_the_loss(graph: Graph) -> None:
    found = pe.analyze(
        graph, small_task.samples(120), small_task.samples(60, seed=1), metric="loss", **SETTINGS
    )
    assert found.settings.train_samples == 120 and found.settings.validation_samples == 60
    assert len(found.settings.data) == 2
    assert all(score < 0 for start in found.starts for score in start.scores)


# What is refused


def test_too_little_data(graph: Graph) -> None:
    with pytest.raises(AnalysisError, match=r"9 validation samples are too few .* ±27 points"):
        pe.analyze(graph, small_task.samples(30), **SETTINGS)


def test_a_class_that_the_validation_set_lacks(graph: Graph) -> None:
    x, y = small_task.samples()
    with pytest.raises(AnalysisError, match="classes '2' are in the training set and missing from"):
        pe.analyze(graph, (x, y), (x[y < 2], y[y < 2]), **SETTINGS)


def test_a_class_with_one_sample(graph: Graph) -> None:
    x, y = small_task.samples(121)
    rare = np.concatenate([np.flatnonzero(y < 2), [2]])
    with pytest.raises(InputError, match="class '2' has 1 sample, and a split needs at least 2"):
        pe.analyze(graph, (x[rare], y[rare]), **SETTINGS)


@pytest.mark.filterwarnings("ignore:all 240 samples are of one class")
def test_a_metric_that_is_the_same_whatever_is_trained(graph: Graph) -> None:
    x, y = small_task.samples()
    with pytest.raises(AnalysisError, match=r"'accuracy' is 1.0 whatever is trained, so nothing"):
        pe.analyze(graph, (x, np.zeros_like(y)), **SETTINGS)
    with pytest.raises(AnalysisError, match=r"whatever is trained.* learning rate than 0.0"):
        pe.analyze(graph, (x, y), lr=0.0, fast=True)


def test_a_learning_rate_that_makes_it_diverge(graph: Graph) -> None:
    with (
        pytest.warns(UserWarning, match=r"the biases of the last 2, 5 blocks diverges"),
        pytest.raises(AnalysisError, match=r"any tensor diverges.* rate than 1e\+30"),
    ):
        pe.analyze(graph, small_task.samples(), lr=1e30, fast=True)


def make_diverging(folder: Path, scheme: pe.UpdateScheme) -> None:
    """Puts down in a journal that training a scheme diverged."""
    journal, lines = folder / "journal.jsonl", []
    for row in map(json.loads, journal.read_text().splitlines()):
        del row["digest"]
        if row.get("shares") == scheme.shares:
            row |= {"metrics": {}, "diverged": True}
        lines.append(json.dumps({**row, "digest": digest(row)}) + "\n")
    journal.write_text("".join(lines))


def test_a_start_that_diverges_is_left_out(
    analysis: pe.Analysis, graph: Graph, folder: Path, tmp_path: Path
) -> None:
    lost = next(start.last for start in analysis.starts if start.last not in (0, analysis.last))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    make_diverging(tmp_path, start_scheme(graph, lost))
    words = rf"the biases of the last {lost} blocks diverges, .* smaller learning rate than 0.2"
    with pytest.warns(UserWarning, match=words) as warned:
        again = pe.analyze(graph, small_task.samples(), folder=tmp_path, **SETTINGS)
    assert warned[0].filename == __file__
    assert again.starts == tuple(start for start in analysis.starts if start.last != lost)
    assert again.last == analysis.last and again.contributions == analysis.contributions
    assert again.search().gain > 0


def test_the_head_alone_must_not_diverge(
    analysis: pe.Analysis, graph: Graph, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    make_diverging(tmp_path, start_scheme(graph, 0))
    with pytest.raises(AnalysisError, match="training the head alone diverges, so the accuracy"):
        pe.analyze(graph, small_task.samples(), folder=tmp_path, **SETTINGS)


def test_a_model_that_is_all_head() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    graph = pe.import_torch(model, small_task.make()[1])
    with pytest.raises(AnalysisError, match="no weights outside its head, so there is nothing"):
        pe.analyze(graph, small_task.samples(), **SETTINGS)


class TwoOutputs(nn.Module):
    """Of which the loss looks at one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(32, 8), nn.Linear(8, 3)
        self.aside, self.other = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.first(x.flatten(1)))
        return {"logits": self.head(x), "other": self.other(torch.relu(self.aside(x)))}


def test_what_the_loss_does_not_depend_on_is_not_measured() -> None:
    graph = pe.import_torch(TwoOutputs().eval(), small_task.make()[1])
    found = pe.analyze(graph, small_task.samples(), workers=1, **SETTINGS)
    assert {c.name for c in found.contributions} == {"first.weight"}
    assert "first.weight" in found.search().shares


def test_labels_that_the_model_does_not_have(graph: Graph) -> None:
    x, y = small_task.samples()
    with pytest.raises(InputError, match="the data have 5 classes, and the model tells 3 apart"):
        pe.analyze(graph, (x, 2 * y), **SETTINGS)


def test_a_metric_that_there_is_not(graph: Graph) -> None:
    with pytest.raises(InputError, match="may be accuracy or loss, got 'beauty'"):
        pe.analyze(graph, small_task.samples(), metric="beauty", **SETTINGS)
    x, _ = small_task.samples()
    targets = np.zeros((len(x), 3), np.float32)
    with pytest.raises(InputError, match="may be loss alone, got 'accuracy'"):
        pe.analyze(graph, (x, targets), loss="mse", metric="accuracy", **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"last": ', '"last": 1'), "edited or damaged after it was"),
        (lambda text: text[:200], "is no analysis: "),
        (lambda text: "[]", 'is no analysis: expected "format": "pockengine.analysis"'),
        (lambda text: text.replace('"version": 1', '"version": 9'), "has version 9; this program"),
    ],
)
def test_a_file_that_was_changed(
    analysis: pe.Analysis, tmp_path: Path, change: "object", message: str
) -> None:
    path = tmp_path / "analysis.json"
    analysis.save(path)
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(AnalysisError, match=message):
        pe.Analysis.load(path)


def test_an_analysis_of_another_model(analysis: pe.Analysis, tmp_path: Path) -> None:
    analysis.save(tmp_path / "analysis.json")
    other = pe.import_torch(*small_task.make_other())
    with pytest.raises(AnalysisError, match="is of another model: its structure is"):
        pe.Analysis.load(tmp_path / "analysis.json", other)
    with pytest.raises(AnalysisError, match="give the model too"):
        pe.Analysis.load(tmp_path / "analysis.json").search(memory="1MB")
    with pytest.raises(AnalysisError, match=r"nowhere.json cannot be read: No such file"):
        pe.Analysis.load(tmp_path / "nowhere.json")


def test_a_folder_of_another_analysis_or_edited(
    analysis: pe.Analysis, graph: Graph, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(AnalysisError, match=r"another analysis \(batch: 16 there, 8 here, recipe"):
        pe.analyze(graph, small_task.samples(), folder=tmp_path, batch=8, **SETTINGS)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], lines[2].replace('"seed": ', '"seed": 1'), ""]))
    with pytest.raises(AnalysisError, match=r"journal.jsonl, line 3: damaged or edited; remove"):
        pe.analyze(graph, small_task.samples(), folder=tmp_path, **SETTINGS)
