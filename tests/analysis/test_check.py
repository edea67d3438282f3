"""A scheme is trained as it was measured, and set beside its prediction."""

import json
from pathlib import Path

import pytest
import small_task
from pytest import approx

import pockengine as pe
from pockengine.analysis.check import check
from pockengine.errors import AnalysisError

GRAPH, DATA = small_task.graph(), small_task.samples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("analysis")


@pytest.fixture(scope="module")
def analysis(folder: Path) -> pe.Analysis:
    return pe.analyze(GRAPH, DATA, lr=0.2, fast=True, folder=folder)


def test_the_head_alone_adds_nothing_to_itself(analysis: pe.Analysis) -> None:
    came = check(analysis, pe.UpdateScheme.head_only(GRAPH), DATA)
    assert came.predicted == 0.0
    assert came.scores == approx(analysis.starts[0].scores)
    assert came.measured.mean == approx(0.0)
    assert came.measured.low < 0 < came.measured.high


def test_a_scheme_that_was_found(analysis: pe.Analysis) -> None:
    found = analysis.search()
    came = check(analysis, found, DATA)
    assert came.predicted == found.gain
    head = analysis.starts[0].scores
    deltas = [score - base for score, base in zip(came.scores, head, strict=True)]
    assert came.measured.mean == approx(sum(deltas) / len(deltas))
    assert str(came) == f"predicted {found.gain:+.4f}, measured {came.measured}"


def test_what_was_measured_is_kept_in_the_folder(analysis: pe.Analysis, folder: Path) -> None:
    journal, full = folder / "journal.jsonl", pe.UpdateScheme.full(GRAPH)
    before = journal.read_text().splitlines()
    came = check(analysis, full, DATA, folder=folder)
    assert came.predicted == analysis.predict(full)
    after = journal.read_text().splitlines()
    assert after[: len(before)] == before and len(after) == len(before) + 2
    assert json.loads(after[-1])["shares"] == dict(sorted(full.shares.items()))
    assert check(analysis, full, DATA, folder=folder, predicted=0.5).scores == came.scores
    assert journal.read_text().splitlines() == after


def test_a_contribution_is_measured_again(analysis: pe.Analysis) -> None:
    best = max(analysis.contributions, key=lambda c: len(c.deltas))
    shares = dict(pe.UpdateScheme.head_only(GRAPH).shares)
    if analysis.last:
        shares |= pe.UpdateScheme.biases(GRAPH, analysis.last).shares
    came = check(analysis, pe.UpdateScheme({**shares, best.name: best.ratio}), DATA)
    start = next(s for s in analysis.starts if s.last == analysis.last)
    expected = [base + delta for base, delta in zip(start.scores, best.deltas, strict=True)]
    assert came.scores == approx(expected, abs=0.03)  # another program, its sums in another order


def test_other_samples_are_refused(analysis: pe.Analysis) -> None:
    other = small_task.samples(seed=9)
    scheme = pe.UpdateScheme.head_only(GRAPH)
    with pytest.raises(AnalysisError, match="these are not the samples of the analysis"):
        check(analysis, scheme, other)
    with pytest.raises(AnalysisError, match="and the validation set too if there was one"):
        check(analysis, scheme, DATA, DATA)
