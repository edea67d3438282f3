"""PyTorch models: exported once by torch.export, then walked node by node into a Graph.

The model is exported at batch size `BATCH`, on fake tensors, so that every dimension which is a
multiple of it is the batch; nothing is computed. Coarse operators (convolutions, norms, attention,
losses) stay coarse. Running statistics and dropout follow `model.training`, as they do in PyTorch.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from pockengine.errors import ImportModelError
from pockengine.frontends.support import Unsupported, refuse
from pockengine.frontends.torch_context import BatchFixed
from pockengine.frontends.torch_walk import Walk, array_of, handler
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.ir.types import BATCH, holds_batch
from pockengine.ir.verify import verify

_DETACH = torch.ops.aten.detach.default

Model = torch.nn.Module | ExportedProgram
Examples = torch.Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True)
class _Source:
    """A model with its example inputs, and its tensors as arrays under their first names."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    data: dict[str, Array]
    aliases: dict[str, str]


def import_torch(model: Model, example_inputs: Examples) -> Graph:
    """The forward graph of a PyTorch model, for any batch size.

    `example_inputs` are the model's positional arguments (a tuple, or one tensor) or its keyword
    arguments (a dict); only their shapes and dtypes matter, and dimension 0 of each is the batch. A
    model whose program holds for one batch size only is imported at that of the examples, with a
    warning.

    Raises UnsupportedError with a table of everything that cannot be imported, and ImportModelError
    when torch.export cannot trace the model or a tensor is of an unknown dtype.
    """
    source = _source(model, example_inputs)
    refuse(_endless_averages(source.module))
    graph, walk = _imported(source)
    refuse(walk.found)
    return verify(graph)


def check_torch(model: Model, example_inputs: Examples) -> list[Unsupported]:
    """Everything in the model that `import_torch` would refuse, then what the C back end would.

    Raises ImportModelError as `import_torch` does.
    """
    source = _source(model, example_inputs)
    found = _endless_averages(source.module)
    if found:
        return found
    _, walk = _imported(source)
    return walk.found + walk.without_kernel


def _endless_averages(module: torch.nn.Module) -> list[Unsupported]:
    """Batch norms that average over all batches so far, which torch.export cannot trace."""
    reason = "momentum=None in training; set a momentum such as 0.1, or call eval() on it"
    return [
        Unsupported(type(m).__name__, name, reason=reason)
        for name, m in module.named_modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
        if m.momentum is None
    ]


def _imported(source: _Source) -> tuple[Graph, Walk]:
    reason = _why_fixed(source)
    if not reason:
        try:
            return _walked(source, BATCH)
        except (BatchFixed, ImportModelError) as error:
            reason = str(error)
    result = _walked(source, None)
    warnings.warn(
        f"imported for the examples' own batch size only, because the model {reason}; "
        "give examples of the batch size that you train with",
        stacklevel=3,
    )
    return result


def _why_fixed(source: _Source) -> str:
    """Why the batch cannot be told from other dimensions; empty when it can."""
    leading = {t.shape[0] for t in _tensors(source) if t.dim()}
    others = [d for t in _tensors(source) for d in t.shape[1:]]
    others += [d for array in source.data.values() for d in array.shape]
    if len(leading) != 1:
        return f"takes inputs whose first dimensions differ: {sorted(leading)}"
    if holds_batch(*others):
        return f"has a dimension that is a multiple of {BATCH}"
    return ""


def _walked(source: _Source, batch: int | None) -> tuple[Graph, Walk]:
    program = _exported(source, batch)
    walk = Walk(program, dict(source.data), source.aliases)
    try:
        return walk.graph(), walk
    except BatchFixed:
        if batch is None:  # at a fixed batch every number is only a number
            raise ImportModelError(f"the example batch must not be a multiple of {BATCH}") from None
        raise


# ---- exporting -----------------------------------------------------------------------------------


def _exported(source: _Source, batch: int | None) -> ExportedProgram:
    args, kwargs = source.args, source.kwargs
    if batch is not None:
        args, kwargs = pytree.tree_map(lambda x: _with_batch(x, batch), (args, kwargs))
    with warnings.catch_warnings(), _without_cache(source.module):
        warnings.simplefilter("ignore")  # what PyTorch says about its own internals
        try:
            program = torch.export.export(source.module, args, kwargs, strict=False)
            _detach_regions(program)
            decomposed: ExportedProgram = program.run_decompositions(_decompositions())
            return decomposed
        except Exception as error:  # torch.export raises every kind
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise ImportModelError(
                f"cannot be traced by torch.export: {words[0]} "
                "(see torch.export.export(model, example_inputs) for the whole report)"
            ) from error


def _with_batch(x: Any, batch: int) -> Any:
    if not isinstance(x, torch.Tensor) or not x.dim():
        return x
    make = torch.empty if x.is_floating_point() else torch.zeros
    return make((batch, *x.shape[1:]), dtype=x.dtype)


def _detach_regions(program: ExportedProgram) -> None:
    """Marks what leaves a torch.no_grad() region, which decomposing makes part of the program."""
    module = program.graph_module
    for node in module.graph.nodes:
        if str(node.target) == "wrap_with_set_grad_enabled" and node.args[0] is False:
            inner = getattr(module, node.args[1].target).graph
            (output,) = inner.find_nodes(op="output")
            with inner.inserting_before(output):
                detached = [inner.call_function(_DETACH, (v,)) for v in output.args[0]]
            output.args = (tuple(detached),)


def _decompositions() -> Any:
    """PyTorch's table to core ATen, less the operators that need no decomposing here."""
    table: Any = torch.export.default_decompositions()
    for op in list(table):
        if handler(str(op)):
            table.pop(op)
    return table


@contextmanager
def _without_cache(module: torch.nn.Module) -> Iterator[None]:
    """A language model's cache of keys and values is of no use in training, and no tensor."""
    config = getattr(module, "config", None)
    if not getattr(config, "use_cache", False):
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = True  # type: ignore[union-attr]


# ---- the model's tensors -------------------------------------------------------------------------


def _source(model: Model, example_inputs: Examples) -> _Source:
    module = model.module() if isinstance(model, ExportedProgram) else model
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    by_name = isinstance(example_inputs, Mapping)
    args = () if by_name else tuple(example_inputs)
    kwargs = dict(example_inputs) if by_name else {}
    data, aliases = _state(module)
    return _Source(module, args, kwargs, data, aliases)


def _state(module: torch.nn.Module) -> tuple[dict[str, Array], dict[str, str]]:
    """Every tensor of the state_dict once, and the other names of tied ones."""
    data: dict[str, Array] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        canonical = first.setdefault(id(tensor), name)
        if canonical == name:
            data[name] = array_of(name, tensor)
        else:
            aliases[name] = canonical
    return data, aliases


def _tensors(source: _Source) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves((source.args, source.kwargs))
    return [x for x in leaves if isinstance(x, torch.Tensor)]
