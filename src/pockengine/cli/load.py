"""From the words of a command line to a graph, a scheme and an optimizer."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pockengine as pe
from pockengine.errors import ImportModelError, InputError, SchemeError
from pockengine.scheme import PRESETS


def load_graph(model: str) -> pe.Graph:
    """Imports an `.onnx` file, or what a PyTorch factory `module:function` returns.

    Raises ImportModelError when there is no such model, UnsupportedError with all operators
    that pockengine lacks.
    """
    if Path(model).suffix == ".onnx":
        if not Path(model).is_file():
            raise ImportModelError(f"there is no file {model}; check the path.")
        return pe.import_onnx(model)
    module, colon, function = model.partition(":")
    if not colon or not module or not function:
        raise ImportModelError(
            f"a model is an .onnx file or module:function (a PyTorch factory); got {model!r}."
        )
    network, example_inputs = _call_factory(_find_factory(module, function), model)
    return pe.import_torch(network, example_inputs)


def _find_factory(module: str, function: str) -> Callable[[], Any]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ImportModelError(
            f"{module}:{function} cannot be found: {error}. Modules are looked up in this folder "
            f"and among those installed."
        ) from error
    finally:
        sys.path.pop(0)


def _call_factory(factory: Callable[[], Any], model: str) -> tuple[Any, tuple[Any, ...]]:
    made = factory()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple)):
        raise ImportModelError(
            f"{model} must return (model, example_inputs) with example_inputs a tuple; "
            f"it returned {type(made).__name__}."
        )
    return made


def make_scheme(graph: pe.Graph, words: str, train: list[str] | None) -> pe.UpdateScheme:
    """`train` entries `glob=share` if there are any; otherwise what `words` name.

    Raises SchemeError for a scheme that does not exist, or a count that is no whole number.
    """
    if train:
        return pe.UpdateScheme.select(graph, dict(map(_glob_and_share, train)))
    if words.endswith(".json"):
        return _scheme_from_file(Path(words))
    name, _, count = words.partition(":")
    if name in ("last_blocks", "biases", "norm_affine") and count:
        return getattr(pe.UpdateScheme, name)(graph, _whole_number(count))  # type: ignore[no-any-return]
    if words in ("full", "head_only", "biases", "norm_affine"):
        return getattr(pe.UpdateScheme, words)(graph)  # type: ignore[no-any-return]
    if words in PRESETS:
        return pe.UpdateScheme.preset(graph, words)
    raise SchemeError(
        f"no scheme is called {words!r}; there are full, head_only, last_blocks:K, biases[:K], "
        f"norm_affine[:K], {', '.join(PRESETS)}, a .json file, and --train GLOB=SHARE."
    )


def _whole_number(count: str) -> int:
    if not count.isdecimal():
        raise SchemeError(f"expected a whole number of blocks, as in last_blocks:4, got {count!r}.")
    return int(count)


def _scheme_from_file(path: Path) -> pe.UpdateScheme:
    try:
        return pe.UpdateScheme.from_json(path.read_text())
    except OSError as error:
        raise SchemeError(f"the scheme {path} cannot be read: {error}") from error


def _glob_and_share(entry: str) -> tuple[str, float]:
    glob, _, share = entry.partition("=")
    try:
        return glob, float(share or 1)
    except ValueError as error:
        raise SchemeError(f"expected GLOB=SHARE with a share such as 0.5, got {entry!r}.") from error


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": pe.SGD,
    "adam": pe.Adam,
    "adamw": pe.AdamW,
    "lion": pe.Lion,
}


def make_optimizer(words: str) -> Any:
    """`name` or `name:setting=value,setting=value`; raises InputError for what it does not know."""
    name, _, settings = words.partition(":")
    if name not in OPTIMIZERS:
        raise InputError(f"no optimizer is called {name!r}; there are {', '.join(OPTIMIZERS)}.")
    try:
        return OPTIMIZERS[name](**dict(map(_setting, filter(None, settings.split(",")))))
    except (TypeError, ValueError) as error:
        raise InputError(f"{words!r} does not describe an optimizer: {error}") from error


def _setting(entry: str) -> tuple[str, Any]:
    key, _, value = entry.partition("=")
    if value in ("true", "false"):
        return key, value == "true"
    return key, float(value)


