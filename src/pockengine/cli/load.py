"""From the words of a command line to a graph, a scheme and an optimizer."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pockengine.errors import ImportModelError, InputError, SchemeError
from pockengine.frontends.onnx import check_onnx, import_onnx
from pockengine.frontends.support import Unsupported
from pockengine.ir.graph import Graph
from pockengine.optim import Optimizer, as_optimizer
from pockengine.presets import NAMES
from pockengine.scheme import UpdateScheme


@dataclass(frozen=True)
class FoundModel:
    """A model that is there. Loading or checking it may still raise ImportModelError.

    `torch` is the PyTorch module and its example inputs, for a model that comes from one.
    """

    load: Callable[[], Graph]
    check: Callable[[], list[Unsupported]]
    torch: tuple[Any, Any] | None = None


def find_model(model: str, dims: list[str] | None = None) -> FoundModel:
    """An `.onnx` file, or what a PyTorch factory `module:function` returns.

    Raises ImportModelError when there is no such model.
    """
    if Path(model).suffix == ".onnx":
        if not Path(model).is_file():
            raise ImportModelError(f"there is no file {model}; check the path.")
        sizes = dict(map(_name_and_size, dims or []))
        return FoundModel(partial(import_onnx, model, sizes), partial(check_onnx, model, sizes))
    module, colon, function = model.partition(":")
    if not colon or not module or not function:
        raise ImportModelError(
            f"a model is an .onnx file or module:function (a PyTorch factory); got {model!r}."
        )
    front_end = _torch_front_end()
    made = _call_factory(_find_factory(module, function), model)
    load, check = partial(front_end.import_torch, *made), partial(front_end.check_torch, *made)
    return FoundModel(load, check, made)


def _torch_front_end() -> Any:
    try:
        return importlib.import_module("pockengine.frontends.torch")
    except ModuleNotFoundError as error:
        raise ImportModelError(
            f"PyTorch models need PyTorch ({error}); run `pip install 'pockengine[torch]'`."
        ) from error


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


def _call_factory(factory: Callable[[], Any], model: str) -> tuple[Any, Any]:
    made = factory()
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ImportModelError(
            f"{model} must return (model, example_inputs); it returned {type(made).__name__}."
        )
    return made


def _name_and_size(entry: str) -> tuple[str, int]:
    name, _, size = entry.partition("=")
    if not size.isdecimal():
        raise InputError(f"expected NAME=SIZE with a whole number, got {entry!r}.")
    return name, int(size)


def make_scheme(graph: Graph, words: str, train: list[str] | None) -> UpdateScheme:
    """`train` entries `glob=share` if there are any; otherwise what `words` name.

    Raises SchemeError for a scheme that does not exist, or a count that is no whole number.
    """
    if train:
        return UpdateScheme.select(graph, dict(map(_glob_and_share, train)))
    if words.endswith(".json"):
        return _scheme_from_file(Path(words))
    name, _, count = words.partition(":")
    if name in ("last_blocks", "biases", "norm_affine") and count:
        return getattr(UpdateScheme, name)(graph, _whole_number(count))  # type: ignore[no-any-return]
    if words in ("full", "head_only", "biases", "norm_affine"):
        return getattr(UpdateScheme, words)(graph)  # type: ignore[no-any-return]
    if words in NAMES:
        return UpdateScheme.preset(graph, words)
    raise SchemeError(
        f"no scheme is called {words!r}; there are full, head_only, last_blocks:K, biases[:K], "
        f"norm_affine[:K], {', '.join(NAMES)}, a .json file, and --train GLOB=SHARE."
    )


def _whole_number(count: str) -> int:
    if not count.isdecimal():
        raise SchemeError(f"expected a whole number of blocks, as in last_blocks:4, got {count!r}.")
    return int(count)


def _scheme_from_file(path: Path) -> UpdateScheme:
    try:
        return UpdateScheme.from_json(path.read_text())
    except FileNotFoundError as error:
        raise SchemeError(f"there is no scheme {path}; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SchemeError(f"the scheme {path} cannot be read: {error}") from error


def _glob_and_share(entry: str) -> tuple[str, float]:
    glob, _, share = entry.partition("=")
    try:
        return glob, float(share or 1)
    except ValueError as error:
        raise SchemeError(
            f"expected GLOB=SHARE with a share such as 0.5, got {entry!r}."
        ) from error


def make_optimizer(words: str) -> Optimizer:
    """`name` or `name:setting=value,setting=value`; raises InputError for what it does not know."""
    name, _, settings = words.partition(":")
    default = as_optimizer(name)
    try:
        return replace(default, **dict(map(_setting, filter(None, settings.split(",")))))
    except (TypeError, ValueError) as error:
        raise InputError(f"{words!r} does not describe an optimizer: {error}") from error


def _setting(entry: str) -> tuple[str, Any]:
    key, _, value = entry.partition("=")
    return key, value == "true" if value in ("true", "false") else float(value)
