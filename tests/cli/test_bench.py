"""`pockengine bench` from the outside."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pockengine.cli import app
from pockengine.demo.personalise import HERE

MODEL = str(HERE / "base_network.onnx")
SHORT = ["--batch", "4", "--threads", "1", "--seconds", "0.05"]
FACTORY = """
import torch

calls = []

def make():
    calls.append("make")
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return model, (torch.zeros(2, 6),)

class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = make()[0]

    def forward(self, left, right):
        return {"logits": self.inner(left + right)}

def named():
    return Named(), {"left": torch.zeros(2, 6), "right": torch.zeros(2, 6)}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments, *SHORT])


def facts_of(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "bench_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "bench_factory", raising=False)
    return "bench_factory:make"


def test_an_onnx_model_stands_alone() -> None:
    facts = facts_of(MODEL)
    assert facts["pockengine"]["median_ms"] > 0
    low, high = facts["pockengine"]["quartiles_ms"]
    assert low <= facts["pockengine"]["median_ms"] <= high
    assert "torch" not in facts
    if sys.platform == "linux":
        growth = facts["process_growth_bytes"]
        assert growth["arena"] == growth["planned"] == facts["planned_peak_bytes"]


@pytest.mark.parametrize("entry", ["train", "evaluate", "predict"])
def test_a_torch_model_has_torch_beside_it(entry: str, factory: str) -> None:
    facts = facts_of(factory, "--entry", entry, "--optimizer", "sgd:momentum=0.9")
    assert facts["entry"] == entry
    assert facts["torch"]["samples_per_s"] > 0
    assert sys.modules["bench_factory"].calls == ["make"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_inputs_by_name_and_other_optimizers(optimizer: str, factory: str) -> None:
    facts = facts_of(factory.replace("make", "named"), "--optimizer", optimizer)
    assert facts["torch"]["median_ms"] > 0


def test_what_torch_does_not_have_is_said(factory: str) -> None:
    result = run(factory, "--optimizer", "lion")
    assert result.exit_code == 0, result.output
    assert "without PyTorch: PyTorch has no optimizer like Lion" in result.stdout.replace("\n", " ")


def test_the_roofline_names_layers_and_peaks() -> None:
    result = run(MODEL, "--roofline", "--order", "program")
    assert result.exit_code == 0, result.output
    for words in ("measured peaks", "GFLOP/s", "of roof", "ConvWeightGrad", "node_conv1d"):
        assert words in result.stdout
    report = facts_of(MODEL, "--roofline")["roofline"]
    assert report["peak_gflops"] > 0
    assert [step["number"] for step in report["steps"]] == list(range(len(report["steps"])))


def test_given_data_is_used(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    samples = np.zeros((4, 6, 128), np.float32)
    np.savez(path, samples=samples, target=np.zeros(4, np.int64))
    assert facts_of(MODEL, "--data", str(path))["batch"] == 4
    np.savez(path, samples=samples)
    result = run(MODEL, "--data", str(path))
    assert result.exit_code == 1
    assert "cannot be read as a batch of samples" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--entry", "dream"], "expected one of train, evaluate, predict, got 'dream'"),
        (["--order", "size"], "expected one of time, program, got 'size'"),
        (["--backend", "numpy", "--roofline"], "only the C back end measures its steps"),
    ],
)
def test_errors_are_words(arguments: list[str], message: str) -> None:
    result = run(MODEL, *arguments)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
