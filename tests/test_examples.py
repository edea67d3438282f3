"""Every example runs, in an empty folder, and prints what it is there to show."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = {
    "analyze_and_search.py": "wrote report.html and scheme.json",
    "cross_compile.py": "neon-linux: aarch64-linux-gnu",
    "finetune_onnx.py": "wrote tuned.onnx",
    "finetune_torch.py": "accuracy of the PyTorch model with these weights",
    "memory_budget.py": "fits:",
    "own_scheme.py": "channels that changed",
    "text_classifier.py": "accuracy: 100%",
}


def test_each_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.filterwarnings("ignore:no contribution can be told from zero")
@pytest.mark.parametrize("name", SHOWN)
def test_example(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert SHOWN[name] in capsys.readouterr().out
