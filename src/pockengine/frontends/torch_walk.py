"""Walks the nodes of an exported PyTorch program and builds the Graph."""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pockengine.errors import GraphError, ImportModelError
from pockengine.frontends import (
    torch_elementwise,
    torch_index,
    torch_loss,
    torch_nn,
    torch_reduce,
    torch_shape,
)
from pockengine.frontends.support import Unsupported, why_no_kernel
from pockengine.frontends.torch_context import (
    DTYPES,
    Context,
    Handler,
    Refused,
    Result,
    generates,
)
from pockengine.ir.graph import Const, Graph, Input, Leaf, Param, State, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.rewrite import transform
from pockengine.ir.types import NUMPY, TensorType, type_of

HANDLERS: dict[str, Handler] = {
    **torch_elementwise.HANDLERS,
    **torch_shape.HANDLERS,
    **torch_reduce.HANDLERS,
    **torch_index.HANDLERS,
    **torch_nn.HANDLERS,
    **torch_loss.HANDLERS,
}
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def array_of(name: str, tensor: torch.Tensor) -> Array:
    """A contiguous copy as NumPy. Raises ImportModelError for a dtype that the IR does not have."""
    if tensor.dtype not in DTYPES:
        raise ImportModelError(
            f"{name!r} is of {tensor.dtype}; pockengine trains in float32: call model.float() first"
        )
    return tensor.detach().cpu().contiguous().numpy().copy()


def type_of_fake(value: object) -> TensorType | None:
    """The type of what PyTorch computes for a node; None when pockengine has no such type."""
    if not isinstance(value, torch.Tensor) or value.dtype not in DTYPES:
        return None
    return TensorType(DTYPES[value.dtype], tuple(int(d) for d in value.shape))


@dataclass
class Walk:
    """One walk over one program. `aliases` maps a tied tensor's other names to its first one.

    `found` is what cannot be imported, `without_kernel` what can be but not compiled to C.
    """

    program: ExportedProgram
    data: dict[str, Array]
    aliases: Mapping[str, str]
    found: list[Unsupported] = field(default_factory=list)
    without_kernel: list[Unsupported] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = tuple(self.data)
        self.env: dict[Node, Any] = {}
        self.ctx = Context(data=self.data)
        self.leaves: dict[str, Value] = {}
        self.inputs: list[Value] = []
        self.stamped: dict[Value, Value] = {}  # a handler's value -> the same with its source

    def graph(self) -> Graph:
        """The program as a Graph; placeholders stand for the nodes in `found`."""
        module = self.program.graph_module
        placeholders = {n.name: n for n in module.graph.nodes if n.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            self.env[placeholders[spec.arg.name]] = self._leaf(spec)
        results = self._walk(module)
        outputs, updates = self._results(results)
        graph = Graph(tuple(self.inputs), outputs, updates, self.data, self.aliases, self.keys)
        return transform(graph, self._folded)

    # ---- leaves and results ----------------------------------------------------------------------

    def _leaf(self, spec: InputSpec) -> Any:
        if spec.kind == InputKind.USER_INPUT:
            return self._input(spec)
        name = self.aliases.get(str(spec.target), str(spec.target))
        if name not in self.leaves:
            if name not in self.data:
                self.data[name] = array_of(name, self._hidden_tensor(name))
            kind = self._kind(spec, name)
            self.leaves[name] = leaf(kind, name, self.data[name])
        return self.leaves[name]

    def _hidden_tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor | None = self.program.constants.get(name)
        if tensor is not None:
            return tensor
        held: torch.Tensor = self.program.state_dict[name]
        return held

    def _kind(self, spec: InputSpec, name: str) -> type[Leaf]:
        if spec.kind == InputKind.PARAMETER:
            return Param
        mutated = name in self.program.graph_signature.buffers_to_mutate.values()
        kept = spec.kind == InputKind.BUFFER and bool(spec.persistent)
        return State if mutated or (kept and type_of(self.data[name]).is_float) else Const

    def _input(self, spec: InputSpec) -> Any:
        if not isinstance(spec.arg, TensorArgument):
            return getattr(spec.arg, "value", None)
        node = next(n for n in self.program.graph.nodes if n.name == spec.arg.name)
        type_ = type_of_fake(node.meta["val"])
        if type_ is None:
            raise ImportModelError(
                f"input {spec.arg.name!r} is of {node.meta['val'].dtype}; "
                f"give example inputs of {', '.join(str(d) for d in DTYPES)}"
            )
        value = leaf(Input, spec.arg.name, type_)
        self.inputs.append(value)
        return value

    def _results(self, results: Sequence[Any]) -> tuple[dict[str, Value], dict[str, Value]]:
        outputs: list[Any] = []
        updates: dict[str, Value] = {}
        for spec, value in zip(self.program.graph_signature.output_specs, results, strict=True):
            if spec.kind in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
                outputs.append(value)
            elif spec.kind == OutputKind.USER_INPUT_MUTATION or not isinstance(value, Value):
                continue
            elif not isinstance(value.op, Leaf):  # a norm hands its statistics back as they were
                updates[str(spec.target)] = value
        names = output_names(self.program, len(outputs))
        pairs = zip(names, outputs, strict=True)
        return {n: v for n, v in pairs if isinstance(v, Value)}, updates

    # ---- nodes -----------------------------------------------------------------------------------

    def _walk(self, module: GraphModule) -> Sequence[Any]:
        for node in module.graph.nodes:
            if node.op == "call_function":
                self.env[node] = self._call(node)
            elif node.op == "output":
                return pytree.tree_leaves(self._values(node.args), is_leaf=_is_none)
        raise ImportModelError("the exported program has no output")

    def _values(self, args: Any) -> Any:
        return torch.fx.node.map_arg(args, lambda n: self.env[n])

    def _call(self, node: Node) -> Any:
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]  # type: ignore[index]
        if not node.users:
            return None
        try:
            return self._handled(node)
        except (Refused, GraphError) as error:
            self.found.append(_unsupported(node, str(error)))
            return self._stand_in(node)

    def _handled(self, node: Node) -> Any:
        import_node = handler(str(node.target))
        if import_node is None:
            raise Refused("no such operator")
        self.ctx.results = _result_types(node)
        args, kwargs = self._values(node.args), self._values(node.kwargs)
        if any(a is None for a in _read(node, self.env)):
            raise Refused("it reads a result of an operator that pockengine does not compute")
        result = import_node(self.ctx, *args, **kwargs)
        _check(node, result, self.ctx.results)
        return self._with_source(result, node)

    def _stand_in(self, node: Node) -> Any:
        """Placeholders for the node's results, so that the walk finds what else is missing."""
        made = tuple(
            None if t is None else leaf(Input, f"{node.name}.{i}", t)
            for i, t in enumerate(_result_types(node))
        )
        return made if isinstance(node.meta.get("val"), list | tuple) else made[0]

    def _with_source(self, result: Result, node: Node) -> Any:
        source = source_of(node)
        if isinstance(result, tuple | list):
            return tuple(v if v is None else self._sourced(v, node, source) for v in result)
        return self._sourced(result, node, source)

    def _sourced(self, value: Value, node: Node, source: str) -> Value:
        if isinstance(value.op, Leaf):
            return value
        if value not in self.stamped:
            inputs = tuple(self._sourced(v, node, source) for v in value.inputs)
            made = replace(value, inputs=inputs, source=value.source or source)
            self.stamped[value] = self.stamped[made] = made
            if why_no_kernel(made):
                self.without_kernel.append(_unsupported(node, why_no_kernel(made)))
        return self.stamped[value]

    def _folded(self, value: Value) -> Value:
        """What is computed from constants alone becomes a constant."""
        if not value.inputs or generates(value):
            return value
        array = self.ctx.constant(value)
        return value if array is None else self._constant(array, value.type)

    def _constant(self, array: Array, type_: TensorType) -> Value:
        folded = self.ctx.const(array.astype(NUMPY[type_.dtype], copy=False))
        self.ctx.constants[folded] = array
        return folded


def _unsupported(node: Node, reason: str) -> Unsupported:
    return Unsupported(str(node.target), node.name, source_of(node), reason)


def _is_none(x: object) -> bool:
    return x is None


def _read(node: Node, env: Mapping[Node, Any]) -> list[Any]:
    return [env[n] for n in node.all_input_nodes]


def handler(target: str) -> Handler | None:
    """By the name with its overload where that matters, else by the operator's name."""
    name = target.removeprefix("aten.")
    return HANDLERS.get(name) or HANDLERS.get(name.rpartition(".")[0])


def _result_types(node: Node) -> tuple[TensorType | None, ...]:
    value = node.meta.get("val")
    return tuple(map(type_of_fake, value if isinstance(value, list | tuple) else [value]))


def _check(node: Node, result: Result, expected: Sequence[TensorType | None]) -> None:
    for value, type_ in zip(
        result if isinstance(result, tuple) else [result], expected, strict=False
    ):
        if value is not None and value.type != type_:
            raise GraphError(f"{node.target} gives {type_} in PyTorch, imported as {value.type}")


def source_of(node: Node) -> str:
    """The path of the module that the node came from, and the line of its source."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(modules[-1][0]) if modules else ""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if "torch/nn" not in f[0]] or frames
    line = f"{PurePath(own[-1][0]).name}:{own[-1][1]}" if own else ""
    return " ".join(part for part in (path, line) if part)


def output_names(program: ExportedProgram, count: int) -> list[str]:
    """Fields of a dataclass or dict by their names, everything else output0, output1, ..."""
    spec = program.call_spec.out_spec
    if spec is None:
        return [f"output{i}" for i in range(count)]
    structure = pytree.tree_unflatten(list(range(count)), spec)
    names = dict(_named(structure, ""))
    return [names[i] for i in range(count)]


def _named(structure: Any, prefix: str) -> list[tuple[int, str]]:
    if isinstance(structure, Mapping):
        items = [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in structure.items()]
    elif isinstance(structure, list | tuple):
        items = [
            (f"{prefix or 'output'}{'.' if prefix else ''}{i}", v) for i, v in enumerate(structure)
        ]
    else:
        return [(structure, prefix or "output0")] if isinstance(structure, int) else []
    return [pair for name, v in items for pair in _named(v, name)]
