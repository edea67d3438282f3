"""Each verb from the outside: what it prints, what its JSON holds, and its exit code."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from pockengine.cli import app
from pockengine.demo.personalise import HERE

MODEL = str(HERE / "base_network.onnx")
HEAD = ["--scheme", "head_only", "--batch", "4", "--threads", "1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def last_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


@pytest.fixture
def unsupported(tmp_path: Path) -> str:
    """A model with two operators that nobody has."""
    nodes = [
        helper.make_node("Fold", ["x"], ["a"], name="first", domain="odd"),
        helper.make_node("Crease", ["a"], ["y"], name="second", domain="odd"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "odd", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("odd", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return str(path)


def test_check_a_model_that_is_supported() -> None:
    result = run("check", MODEL)
    assert result.exit_code == 0
    assert "Every operator is supported" in result.stdout
    facts = last_json(run("check", MODEL, "--json"))
    assert facts["supported"] is True
    assert facts["operators"]["Conv"] == 5


def test_check_lists_all_unsupported_operators(unsupported: str) -> None:
    result = run("check", unsupported)
    assert result.exit_code == 3
    assert "Fold" in result.stderr
    assert "Crease" in result.stderr
    result = run("check", unsupported, "--json")
    assert result.exit_code == 3
    facts = json.loads(result.stdout)
    assert [item["node"] for item in facts["unsupported"]] == ["first", "second"]


@pytest.mark.parametrize("verb", ["plan", "compile", "inspect"])
def test_every_verb_refuses_unsupported_operators(verb: str, unsupported: str) -> None:
    assert run(verb, unsupported).exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["plan", MODEL, "--scheme", "half"], "no scheme is called 'half'"),
        (["plan", MODEL, "--train", "tail.*"], "'tail.*' names no parameter"),
        (["plan", MODEL, "--loss", "anger"], "no loss is named 'anger'"),
        (["plan", MODEL, "--target", "toaster"], "no target is called 'toaster'"),
        (["plan", MODEL, "--backend", "fortran"], "no back end is called 'fortran'"),
        (["plan", MODEL, "--memory", "10KB"], "more than the memory budget of 10,000"),
        (["plan", MODEL, "--picture", "step.jpg"], "the picture is drawn as .svg"),
        (["inspect", MODEL, "--after", "lunch"], "there is no stage 'lunch' of 'train'"),
        (["inspect", "nowhere.pock"], "nowhere.pock"),
    ],
)
def test_errors_are_words_and_exit_with_1(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [[], ["plan"], ["plan", MODEL, "--batch", "0"], ["fly"]])
def test_a_command_line_that_cannot_be_understood_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_plan_shows_the_trained_set_the_table_and_the_timeline(tmp_path: Path) -> None:
    picture = tmp_path / "step.svg"
    result = run("plan", MODEL, *HEAD, "--layers", "--picture", str(picture))
    assert result.exit_code == 0, result.output
    for words in ("head.weight", "frozen weights", "lower bound", "steps of 'train'", "MFLOP"):
        assert words in result.stdout
    for words in ("features: 4 samples at a time, 1 times a step", "steps of 'features'"):
        assert words in result.stdout
    assert picture.read_text().startswith("<svg")


def test_plan_json_is_smaller_for_fewer_trained_weights() -> None:
    head = last_json(run("plan", MODEL, *HEAD, "--json"))
    full = last_json(run("plan", MODEL, "--batch", "4", "--threads", "1", "--json"))
    assert set(head["trained"]) == {"head.weight", "head.bias"}
    assert head["lower_bound_bytes"] <= head["planned_peak_bytes"] < full["planned_peak_bytes"]
    assert sum(head["at_peak"].values()) <= head["planned_peak_bytes"]
    assert sum(layer["flops"] for layer in head["layers"]) > 0
    assert head["calls"]["features"] == {"samples": 4, "times": 1}
    assert set(full["calls"]) == {"train"}
    assert {layer["entry"] for layer in head["layers"]} == {"features", "train"}


def test_plan_of_a_step_in_parts() -> None:
    settings = ["plan", MODEL, "--batch", "32", "--threads", "1", "--json"]
    whole, parts = (last_json(run(*settings, *more)) for more in ([], ["--micro-batch", "2"]))
    assert parts["planned_peak_bytes"] < whole["planned_peak_bytes"]


def test_a_layers_gradients_count_as_its_own() -> None:
    layers = last_json(run("plan", MODEL, "--batch", "4", "--threads", "1", "--json"))["layers"]
    convolutions = {row["source"]: row["flops"] for row in layers if "conv1d" in row["source"]}
    forward = 2 * 4 * 64 * 64 * 32 * 5  # batch, time, outputs, inputs, kernel
    assert convolutions["node_conv1d_1"] == 3 * forward


def test_inspect_lists_and_prints_stages() -> None:
    sizes = last_json(run("inspect", MODEL, *HEAD, "--json"))["stages"]
    assert {"model import", "train autodiff", "train final", "predict plan"} <= set(sizes)
    text = run("inspect", MODEL, *HEAD, "--after", "import").stdout
    assert text.startswith("graph {")
    assert "Param(name='blocks.0.conv.weight')" in text
    final = last_json(run("inspect", MODEL, *HEAD, "--after", "final", "--json"))
    assert "update head.weight" in final["text"]


def test_inspect_prints_the_plan_of_an_entry_point() -> None:
    lines = run("inspect", MODEL, *HEAD, "--after", "plan", "--entry", "predict").stdout
    assert "   0 " in lines
    assert "f32[4,7] output at " in lines


@pytest.mark.slow
def test_compile_and_inspect_the_program(tmp_path: Path) -> None:
    path = tmp_path / "head.pock"
    made = last_json(run("compile", MODEL, *HEAD, "--out", str(path), "--json"))
    assert made["bytes"] == path.stat().st_size
    facts = last_json(run("inspect", str(path), "--json"))
    assert facts["arena_bytes"] == made["planned_peak_bytes"]
    assert facts["batch"] == 4
    assert len(facts["leaves"]["trained"]) == 2
    shown = run("inspect", str(path)).stdout
    assert "features: samples: f32[4,6,128] -> features:0" in shown
    assert "4 samples at a time" in shown and "train: features:0" in shown
    assert "update head.weight" in run("inspect", str(path), "--after", "final").stdout
    assert "#include" in run("inspect", str(path), "--after", "source").stdout
    refused = run("inspect", str(path), "--after", "fold")
    assert "keeps the stages final, plan, source; got 'fold'" in refused.stderr


@pytest.mark.slow
def test_doctor_says_that_this_machine_works() -> None:
    facts = last_json(run("doctor", "--json"))
    assert facts["works"] is True
    assert facts["compile and run"].startswith("works")
    assert "numpy" in run("doctor").stdout
