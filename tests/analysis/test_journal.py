"""Measurements survive a kill, and an edited file is refused."""

from pathlib import Path

import pytest

from pockengine.analysis.journal import Journal
from pockengine.errors import AnalysisError

HEADER = {"model": "abc", "lr": 0.01, "seeds": (0, 1)}


def filled(path: Path) -> Path:
    journal = Journal(path, HEADER)
    journal.put("a", {"metrics": {"accuracy": 0.5}})
    journal.put("b", {"metrics": {"accuracy": 0.75}})
    return path


def test_what_was_measured_is_there_again(tmp_path: Path) -> None:
    again = Journal(filled(tmp_path / "deep" / "journal.jsonl"), HEADER)
    assert again.get("a") == {"metrics": {"accuracy": 0.5}}
    assert again.get("b") == {"metrics": {"accuracy": 0.75}}
    assert again.get("c") is None


@pytest.mark.parametrize("left", [0.3, 0.6, 0.95])
def test_a_line_cut_by_a_kill_is_dropped_and_written_anew(tmp_path: Path, left: float) -> None:
    path = filled(tmp_path / "journal.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][: int(left * len(lines[2]))])
    again = Journal(path, HEADER)
    assert again.get("a") is not None and again.get("b") is None
    again.put("b", {"metrics": {"accuracy": 0.25}})
    assert Journal(path, HEADER).get("b") == {"metrics": {"accuracy": 0.25}}


def test_an_edited_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = filled(tmp_path / "journal.jsonl")
    path.write_text(path.read_text().replace("0.75", "0.95"))
    with pytest.raises(AnalysisError, match=r"journal.jsonl, line 3: damaged or edited; remove"):
        Journal(path, HEADER)


@pytest.mark.parametrize("line", ["[1, 2]", "nonsense", "{}", '{"digest": 1}'])
def test_a_line_that_is_no_measurement_is_an_error(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "journal.jsonl")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(AnalysisError, match="line 4: damaged or edited"):
        Journal(path, HEADER)


def test_another_analysis_is_an_error_that_says_how_it_differs(tmp_path: Path) -> None:
    path = filled(tmp_path / "journal.jsonl")
    with pytest.raises(AnalysisError, match=r"another analysis \(lr: 0.01 there, 0.02 here\)"):
        Journal(path, {**HEADER, "lr": 0.02})


def test_a_first_line_that_was_cut_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"format": "pock')
    with pytest.raises(AnalysisError, match="nothing is whole in it"):
        Journal(path, HEADER)
