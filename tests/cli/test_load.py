"""From words to graphs, schemes and optimizers, and what is said to words that mean nothing."""

from pathlib import Path

import pytest

from pockengine.cli.load import find_model, make_optimizer, make_scheme
from pockengine.demo.personalise import HERE
from pockengine.errors import ImportModelError, InputError, SchemeError
from pockengine.ir.graph import Graph
from pockengine.optim import SGD, Adam


@pytest.fixture(scope="module")
def graph() -> Graph:
    return find_model(str(HERE / "base_network.onnx")).load()


def test_a_missing_onnx_file() -> None:
    with pytest.raises(ImportModelError, match=r"there is no file nowhere\.onnx; check the path"):
        find_model("nowhere.onnx")


def test_sizes_of_free_dimensions() -> None:
    with pytest.raises(InputError, match="expected NAME=SIZE with a whole number, got 'time=long'"):
        find_model(str(HERE / "base_network.onnx"), ["time=long"])


def test_a_model_that_is_neither() -> None:
    with pytest.raises(ImportModelError, match=r"an \.onnx file or module:function .* 'resnet'"):
        find_model("resnet")


def test_a_factory_that_is_not_there() -> None:
    with pytest.raises(ImportModelError, match=r"no_such_module:make cannot be found"):
        find_model("no_such_module:make")


def test_a_factory_that_returns_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_odd_factory.py").write_text("def make():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportModelError, match=r"must return \(model, example_inputs\).*int"):
        find_model("my_odd_factory:make")


def test_named_schemes(graph: Graph) -> None:
    assert set(make_scheme(graph, "head_only", None).shares) == {"head.weight", "head.bias"}
    assert set(make_scheme(graph, "full", None).shares) == set(graph.params)


def test_train_takes_the_place_of_the_scheme(graph: Graph) -> None:
    scheme = make_scheme(graph, "full", ["head.*", "blocks.4.conv.weight=0.5"])
    assert scheme.shares == {"head.weight": 1, "head.bias": 1, "blocks.4.conv.weight": 0.5}


def test_a_scheme_from_a_file(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "scheme.json"
    path.write_text(make_scheme(graph, "head_only", None).to_json())
    assert make_scheme(graph, str(path), None) == make_scheme(graph, "head_only", None)


@pytest.mark.parametrize(
    ("words", "train", "message"),
    [
        ("half", None, r"no scheme is called 'half'; there are full, head_only"),
        ("last_blocks", None, r"no scheme is called 'last_blocks'"),
        ("last_blocks:few", None, r"expected a whole number of blocks.*got 'few'"),
        ("nowhere.json", None, r"there is no scheme nowhere\.json; check the path"),
        ("full", ["head.*=most"], r"expected GLOB=SHARE.*got 'head\.\*=most'"),
        ("full", ["tail.*"], r"'tail\.\*' names no parameter"),
    ],
)
def test_schemes_that_mean_nothing(
    graph: Graph, words: str, train: list[str] | None, message: str
) -> None:
    with pytest.raises(SchemeError, match=message):
        make_scheme(graph, words, train)


def test_optimizers_with_settings() -> None:
    assert make_optimizer("adam") == Adam()
    assert make_optimizer("sgd:momentum=0.9,nesterov=true") == SGD(momentum=0.9, nesterov=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("newton", "no optimizer is named 'newton'; there are sgd, adam"),
        ("sgd:speed=3", "'sgd:speed=3' does not describe an optimizer"),
        ("sgd:momentum=lots", "'sgd:momentum=lots' does not describe an optimizer"),
    ],
)
def test_optimizers_that_mean_nothing(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_optimizer(words)
