"""`analyze` and `search` from the outside: the whole path, interrupts, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_task
from typer.testing import CliRunner, Result

import pockengine as pe
from pockengine.analysis import calibrate
from pockengine.analysis.statistics import Spread
from pockengine.analysis.trials import Progress
from pockengine.cli import analyze as verb
from pockengine.cli import app
from pockengine.cli.progress import Lines, counted, in_words, stage

MODEL, OTHER = "small_task:make", "small_task:make_other"
AS_MEASURED = ["--optimizer", "sgd:momentum=0.9", "--batch", "16", "--threads", "1"]
SHORT = ["--fast", "--lr", "0.1", "--workers", "2"]
pytestmark = pytest.mark.filterwarnings("ignore:no contribution can be told from zero")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steps take does not matter here."""
    for name in ("WARM_SECONDS", "SECONDS", "TURN_SECONDS"):
        monkeypatch.setattr(calibrate, name, 1e-3)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def last_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def refusal(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "levels.npz"
    x, y = small_task.samples()
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="module")
def analysis(data: Path) -> Path:
    """An analysis that nothing interrupted."""
    path = data.with_name("analysis.json")
    facts = last_json(run("analyze", MODEL, data, *SHORT, "--out", path, "--json"))
    assert facts["file"] == str(path) and facts["metric"] == "accuracy"
    assert {name for name, _, _ in facts["gains"]} >= {"0.weight", "2.2.conv.weight"}
    return path


def test_from_samples_to_a_program(data: Path, analysis: Path, tmp_path: Path) -> None:
    scheme, page, program = (tmp_path / name for name in ("s.json", "page.html", "s.pock"))
    limits = ["--memory", "70KB", "--step-ms", "50", "--threads", "1"]
    result = run(
        *("search", MODEL, analysis, *limits, "--check", data, "--workers", "1"),
        *("--out", scheme, "--report", page, "--folder", tmp_path / "work"),
    )
    assert result.exit_code == 0, result.output
    for words in ("no scheme has more than", "a step", "Trained for real, beside the head alone"):
        assert words in result.stdout
    assert f"{scheme}: use it with --scheme {scheme} --batch " in result.stdout
    assert "momentum=0.9" in result.stdout
    for words in (
        "timing programs on this machine",
        "planning what each tensor takes",
        "looking for the best scheme",
        "training the scheme: ",
        "drawing the page",
    ):
        assert words in result.stderr
    for words in ("What each tensor costs", "everything trained", "measured"):
        assert words in page.read_text()
    made = last_json(
        run("compile", MODEL, "--scheme", scheme, *AS_MEASURED, "--out", program, "--json")
    )
    assert made["planned_peak_bytes"] <= 70_000
    with pe.Session.load(program) as session:
        x, y = small_task.samples(16)
        assert session.step(x, y, lr=0.1) > 0


def test_what_search_prints_as_json(data: Path, analysis: Path, tmp_path: Path) -> None:
    out = tmp_path / "scheme.json"
    here = Path(shutil.copy(analysis, tmp_path))
    command = ["search", MODEL, here, "--memory", "70KB", "--out", out, "--check", data, "--json"]
    facts = last_json(run(*command))
    kept = here.with_suffix(".work") / "journal.jsonl"
    trained = kept.read_bytes()
    assert trained.count(b"\n") == 1 + facts["measured"]["seeds"]
    assert last_json(run(*command)) == facts and kept.read_bytes() == trained
    assert facts["memory_bytes"] <= 70_000 and facts["step_ms"] == 0.0
    assert facts["gain"] <= facts["bound"] + 1e-9
    assert facts["parameters"] == json.loads(out.read_text())["parameters"]
    low, high = facts["measured"]["interval"]
    assert low <= facts["measured"]["gain"] <= high and facts["measured"]["seeds"] == 2


def test_the_table_and_the_page_of_an_analysis(data: Path, analysis: Path, tmp_path: Path) -> None:
    again, page = tmp_path / "again.json", tmp_path / "page.html"
    where = ["--folder", analysis.with_suffix(".work"), "--out", again, "--report", page]
    result = run("analyze", MODEL, data, *SHORT, *where)
    assert result.exit_code == 0, result.output
    for words in ("What training brings, in accuracy", "90 % interval", "2.2.conv.weight"):
        assert words in result.stdout
    assert f"{again}: measured in " in result.stdout
    assert pe.Analysis.load(again).gains == pe.Analysis.load(analysis).gains
    assert "What each tensor brings" in page.read_text()
    assert "biases of the last blocks: " in result.stderr


def test_a_config_file_says_it_all(data: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "job.toml", tmp_path / "estimate.json"
    config.write_text(
        f'model = "{MODEL}"\ndata = "{data}"\nproxy = "fisher"\nbatch = 8\nout = "{out}"\n'
    )
    facts = last_json(run("analyze", "--config", config, "--json"))
    assert facts["metric"] == "fisher" and facts["file"] == str(out)
    assert pe.Analysis.load(out).settings.batch == 8
    config.write_text('memory = "70KB"\nout = "s.json"\nproxy = "fisher"\n')
    result = run("search", MODEL, out, "--config", config)
    assert result.exit_code == 2
    assert "sets proxy, which `search` does not have" in " ".join(
        result.stderr.replace("│", " ").split()
    )


@pytest.mark.parametrize("proxy", ["fisher", "weight_norm"])
def test_an_estimate_for_those_who_cannot_wait(data: Path, tmp_path: Path, proxy: str) -> None:
    out, scheme, page = (tmp_path / name for name in ("a.json", "s.json", "page.html"))
    result = run("analyze", MODEL, data, "--proxy", proxy, "--out", out, "--report", page)
    assert result.exit_code == 0, result.output
    assert f"What training brings, in {proxy}" in result.stdout
    assert "interval" not in result.stdout and "estimated in" in result.stdout
    assert f"estimating by {proxy}, from the weights" in result.stderr
    assert "nothing was" in page.read_text()
    facts = last_json(run("search", MODEL, out, "--memory", "70KB", "--out", scheme, "--json"))
    assert facts["gain"] > 0 and facts["memory_bytes"] <= 70_000
    told = refusal("search", MODEL, out, "--check", data, "--out", scheme)
    assert f"estimated by {proxy}, which predicts no accuracy" in told


def test_gains_that_cannot_be_told_apart(
    analysis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = replace(pe.Analysis.load(analysis), spread=Spread(50.0, 9), last=0)
    noisy.save(tmp_path / "noisy.json")
    said = "The measurements cannot be told apart: they differ by no more than their noise"
    result = run("search", MODEL, tmp_path / "noisy.json", "--out", tmp_path / "s.json")
    assert result.exit_code == 0 and said in result.stdout
    sys.modules[verb.__module__]._show(noisy)
    shown = capsys.readouterr().out
    assert said in shown and "beside the head alone" in shown


# Interrupts

SLOWLY = """
import signal
import time
from pockengine.analysis.journal import Journal
from pockengine.cli import main

put = Journal.put
Journal.put = lambda *given: (time.sleep(0.3), put(*given))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs tests aside
main()
"""


def started(data: Path, out: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, when four more trials are done.

    It takes its time for each, so that some are left however busy the machine is.
    """
    command = [sys.executable, "-c", SLOWLY, "analyze", MODEL, str(data), *SHORT, "--out", str(out)]
    folder = Path(small_task.__file__).parent
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    journal = out.with_suffix(".work") / "journal.jsonl"
    deadline = time.monotonic() + 120
    before = lines(journal)
    while lines(journal) < before + 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_stopped_twice_it_ends_as_if_it_had_not_been(
    data: Path, analysis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped.json"
    journal = out.with_suffix(".work") / "journal.jsonl"
    process = started(data, out)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert f"What was measured is kept in {out.with_suffix('.work')}; the same command" in told
    assert "Traceback" not in told and not out.exists()
    kept = journal.read_bytes()
    assert kept.count(b"\n") >= 4
    process = started(data, out)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not out.exists()
    assert journal.read_bytes().startswith(kept) and lines(journal) > kept.count(b"\n")
    assert run("analyze", MODEL, data, *SHORT, "--out", out).exit_code == 0
    assert pe.Analysis.load(out).gains == pe.Analysis.load(analysis).gains
    assert lines(journal) == lines(analysis.with_suffix(".work") / "journal.jsonl")


def test_ctrl_c_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[verb.__module__], "measure", interrupted)
    result = run("analyze", MODEL, data, "--folder", tmp_path / "here")
    assert result.exit_code == 130
    assert (
        f"Stopped. What was measured is kept in {tmp_path / 'here'}; the same command goes on"
        in (" ".join(result.stderr.split()))
    )


def test_lines_come_with_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    tell = Lines()
    for words, done in (("one", 1), ("one", 2), ("two", 3)):
        tell(Progress(words, done, 10, 300.0))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "one: 1 of about 10, 5 min left",
        "two: 3 of about 10, 5 min left",
    ]
    tell(stage("three"))
    counted(tell, "four")(1, 3)
    told = capsys.readouterr().err.splitlines()
    assert told == ["three", "four"]
    assert in_words(59.6) == "60 s left"


# What is refused


def test_a_scheme_or_an_analysis_of_another_model(analysis: Path, tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.json"
    assert run("search", MODEL, analysis, "--out", scheme).exit_code == 0
    for command in (["plan"], ["compile", "--out", tmp_path / "x.pock"], ["inspect"]):
        told = refusal(command[0], OTHER, "--scheme", scheme, *command[1:])
        assert "the scheme was found for a model of structure" in told
        assert "its layers differ. Search a scheme for this model" in told
    assert "is of another model: its structure is" in refusal("search", OTHER, analysis)


def test_an_edited_analysis_and_an_edited_journal(
    data: Path, analysis: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "edited.json"
    edited.write_text(analysis.read_text().replace('"seed', '"sed', 1))
    assert "edited.json was edited or damaged after it was written" in refusal(
        "search", MODEL, edited
    )
    work = tmp_path / "edited.work"
    work.mkdir()
    text = (analysis.with_suffix(".work") / "journal.jsonl").read_text()
    (work / "journal.jsonl").write_text(text.replace('"accuracy": 0', '"accuracy": 1', 1))
    told = refusal("analyze", MODEL, data, *SHORT, "--out", edited)
    assert "journal.jsonl, line 2: damaged or edited; remove that line" in told


def test_budgets_that_nothing_fits(analysis: Path) -> None:
    told = refusal("search", MODEL, analysis, "--memory", "1KB")
    assert (
        "no scheme fits a memory budget of 1,000 bytes" in told and "the least that would" in told
    )
    told = refusal("search", MODEL, analysis, "--step-ms", "0.00001")
    assert "no scheme fits a step of 1e-05 ms" in told and "the least that would" in told
    assert "expected an amount of memory such as 64MB" in refusal(
        "search", MODEL, analysis, "--memory", "much"
    )


def test_other_samples_are_refused_before_anything_is_searched(
    analysis: Path, tmp_path: Path
) -> None:
    x, y = small_task.samples(seed=1)
    other, out = tmp_path / "other.npz", tmp_path / "s.json"
    np.savez(other, x=x, y=y)
    search = ["search", MODEL, analysis, "--out", out, "--check"]
    for data, words in ((other, "these are not the samples of the analysis"), ("nowhere.npz", "")):
        told = refusal(*search, data)
        assert words in told and "planning what each tensor takes" not in told
    assert not out.exists()


def test_data_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    x, y = small_task.samples(30)
    small = tmp_path / "small.npz"
    np.savez(small, x=x, y=y)
    where = ["--out", tmp_path / "a.json"]
    told = refusal("analyze", MODEL, small, *SHORT, *where)
    assert "9 validation samples are too few to measure anything" in told
    assert "nowhere.npz" in refusal("analyze", MODEL, "nowhere.npz", *where)
    table = tmp_path / "table.csv"
    table.write_text("text,label\nhello,1\n")
    assert "give --tokenizer tokenizer.json too" in refusal("analyze", MODEL, table, *where)
    assert "a folder of images is for models that take" in refusal(
        "analyze", MODEL, tmp_path, *where
    )
    names = tmp_path / "names.npz"
    np.savez(names, x=x, y=np.array(["a", "b", "c"])[y])
    told = refusal("analyze", MODEL, data, "--validation", names, *SHORT, *where)
    assert f"{names} has the classes 'a', 'b', 'c'" in told


@pytest.mark.filterwarnings("ignore:training the biases of the last 2, 5 blocks diverges")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--proxy", "magic"], "no proxy is called 'magic'; there are weight_norm, gradient_norm"),
        (["--proxy", "fisher", "--fast"], "leave out --metric, --fast and --validation, or"),
        (["--metric", "beauty"], "may be accuracy or loss, got 'beauty'"),
        (["--lr", "1e30", "--fast"], "diverges, so the accuracy cannot be measured; use a smaller"),
    ],
)
def test_options_that_make_no_sense(
    data: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in refusal("analyze", MODEL, data, *options, "--out", tmp_path / "a.json")


def test_a_command_line_that_cannot_be_understood(data: Path) -> None:
    assert run("analyze", MODEL).exit_code == 2
    assert run("analyze", MODEL, data, "--lr", "fast").exit_code == 2
    assert run("search", MODEL).exit_code == 2
