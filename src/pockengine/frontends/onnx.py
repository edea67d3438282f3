"""The ONNX front end: a model file -> a Graph.

    graph = import_onnx("model.onnx")                           # opset 13 to current
    graph = import_onnx("bert.onnx", dims={"sequence": 128})    # sizes of other free dimensions
    check_onnx("model.onnx")                                    # all that is unsupported, at once

Each node is translated by the function of its operator (`TRANSLATIONS`). A node whose inputs are
all known numbers is evaluated on the spot, by the reference of the operators that it translates to;
so shape computations vanish. Floating-point initializers become Params under their own names, the
statistics of batch norms States, all other numbers Consts.

An exporter that optimises for inference folds batch norms into convolutions and stores transposed
or shared weights under names of its own. `torch.onnx.export(..., dynamo=True, optimize=False)`
keeps every parameter, with its name. ONNX cannot say that a row of an embedding is padding, so such
a row is trained like the others.

The first dimension of the inputs, when the file leaves it free, becomes the batch. When the file
fixes it, the import tries whether the model works for any batch all the same; if not, it stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pockengine.errors import GraphError, ImportModelError, PockError, UnsupportedError
from pockengine.frontends import (
    onnx_attention,
    onnx_index,
    onnx_math,
    onnx_nn,
    onnx_resize,
    onnx_shape,
)
from pockengine.frontends.onnx_node import (
    Item,
    Known,
    Leaves,
    Node,
    Translation,
    with_source,
)
from pockengine.frontends.onnx_read import (
    ModelSource,
    check_node,
    element_dtype,
    first_line,
    inline_functions,
    opset_of,
    read_model,
    specification,
    tensor_array,
)
from pockengine.frontends.support import Unsupported, refuse, why_no_kernel
from pockengine.ir.graph import Const, Graph, Input, Leaf, Param, leaf, topological
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Value
from pockengine.ir.types import BATCH, TensorType, holds_batch
from pockengine.ir.verify import verify

TRANSLATIONS: dict[str, Translation] = {
    **onnx_math.TRANSLATIONS,
    **onnx_shape.TRANSLATIONS,
    **onnx_index.TRANSLATIONS,
    **onnx_nn.TRANSLATIONS,
    **onnx_resize.TRANSLATIONS,
    **onnx_attention.TRANSLATIONS,
}
WEIGHT_INPUTS = {  # where an operator expects something that is learned
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
}
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"  # PyTorch notes what each tensor was
_BROKEN = (  # what altered numbers in a node can lead to
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)


def import_onnx(source: ModelSource, dims: Mapping[str, int] | None = None) -> Graph:
    """The graph of an ONNX model given as a path, as bytes, or as a ModelProto.

    `dims` gives the sizes of free dimensions by name; the first dimension of an input needs none,
    it is the batch. Raises ImportModelError for a file that cannot be read or is inconsistent, and
    UnsupportedError with all operators that pockengine does not have.
    """
    model, folder = _prepared(source)
    types = _input_types(model, dims or {})
    free = _with_free_batch(types)
    if free is not None and not dims:
        with suppress(PockError):
            graph, found = _Walk(model, folder).graph(free)
            if not found and _works_for_any_batch(graph):
                return verify(graph)
    graph, found = _Walk(model, folder).graph(types)
    refuse(found)
    return verify(graph)


def check_onnx(source: ModelSource, dims: Mapping[str, int] | None = None) -> list[Unsupported]:
    """All that `import_onnx` would refuse, then what the C back end would; in the order of nodes.

    Raises ImportModelError as `import_onnx` does; when only `dims` are missing, operators that are
    unknown are still listed.
    """
    model, folder = _prepared(source)
    try:
        types = _input_types(model, dims or {})
    except ImportModelError:
        unknown = _unknown(model.graph.node)
        if unknown:
            return unknown
        raise
    walk = _Walk(model, folder)
    return walk.graph(types)[1] + walk.without_kernel()


def _prepared(source: ModelSource) -> tuple[onnx.ModelProto, Path | None]:
    model, folder = read_model(source)
    return inline_functions(model), folder


def _unknown(nodes: Iterable[onnx.NodeProto]) -> list[Unsupported]:
    return [_unsupported(n) for n in nodes if _key(n) not in TRANSLATIONS and n.op_type != "If"]


# ---- inputs --------------------------------------------------------------------------------------


def _input_types(model: onnx.ModelProto, dims: Mapping[str, int]) -> dict[str, TensorType]:
    """The type of each input. Raises ImportModelError listing free dimensions without a size."""
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in given]
    batch = {_symbol(v, 0) for v in inputs if _dims(v)} - set(dims) - {""}
    missing: list[str] = []
    types = {}
    for info in inputs:
        shape = []
        for axis, dim in enumerate(_dims(info)):
            symbol = _symbol(info, axis)
            size = BATCH if symbol in batch else dims.get(symbol, dim.dim_value)
            missing += [symbol] if size <= 0 else []
            shape.append(size)
        dtype = element_dtype(info.type.tensor_type.elem_type, f"input {info.name!r}")
        types[info.name] = TensorType(dtype, tuple(shape))
    _require_sizes(missing)
    return types


def _require_sizes(missing: Sequence[str]) -> None:
    if missing:
        names = list(dict.fromkeys(missing))
        example = ", ".join(f"{name!r}: 128" for name in names)
        raise ImportModelError(
            f"the model leaves the dimensions {', '.join(map(repr, names))} free; "
            f"give their sizes, for example dims={{{example}}}"
        )


def _dims(info: onnx.ValueInfoProto) -> Sequence[Any]:
    if info.type.WhichOneof("value") != "tensor_type" or not info.type.tensor_type.HasField(
        "shape"
    ):
        raise ImportModelError(f"input {info.name!r} is no tensor of known rank")
    return info.type.tensor_type.shape.dim  # type: ignore[no-any-return]


def _symbol(info: onnx.ValueInfoProto, axis: int) -> str:
    """The name of a free dimension; empty for one that the file fixes."""
    dim = info.type.tensor_type.shape.dim[axis]
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return ""
    return dim.dim_param or f"{info.name}[{axis}]"


def _with_free_batch(types: Mapping[str, TensorType]) -> dict[str, TensorType] | None:
    """The types with the batch in place of a fixed first dimension that all inputs share, if so."""
    first = {t.shape[0] for t in types.values() if t.rank}
    if len(first) != 1 or holds_batch(*first):
        return None
    return {n: t.with_shape(BATCH, *t.shape[1:]) if t.rank else t for n, t in types.items()}


def _works_for_any_batch(graph: Graph) -> bool:
    """Whether the batch is the first axis of all that depends on it and nothing reduces over it."""
    for value in graph.values():
        follows = [v for v in value.inputs if holds_batch(*v.shape)]
        if holds_batch(*value.shape[1:]) or (follows and not holds_batch(*value.shape)):
            return False
        if follows and follows[0] is value.inputs[0] and _works_on_first_axis(value):
            return False
    return all(v.shape[:1] == (BATCH,) for v in graph.outputs.values())


def _works_on_first_axis(value: Value) -> bool:
    return getattr(value.op, "axis", None) == 0 or 0 in getattr(value.op, "axes", ())


# ---- nodes ---------------------------------------------------------------------------------------


def _key(node: onnx.NodeProto) -> str:
    standard = node.domain in ("", "ai.onnx")
    return node.op_type if standard else f"{node.domain}::{node.op_type}"


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def _source_line(node: onnx.NodeProto) -> str:
    """The line of the user's program, where PyTorch noted it."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    lines = notes.get("pkg.torch.onnx.stack_trace", "").strip().splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip().startswith("File")), "")


def _unsupported(node: onnx.NodeProto, reason: str = "no such operator") -> Unsupported:
    return Unsupported(_key(node), _name(node), _source_line(node), reason)


def _attributes(node: onnx.NodeProto, folder: Path | None) -> dict[str, Any]:
    return {a.name: _attribute(a, folder) for a in node.attribute}


def _attribute(attribute: onnx.AttributeProto, folder: Path | None) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return tensor_array(value, folder)
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, as it was written, not 9.99999974e-06
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Walk:
    """One pass over a model's nodes: every name's item, and what could not be translated."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        self.model, self.folder = model, folder
        self.opset, self.specification = opset_of(model), specification(model)
        self.leaves = Leaves()
        self.items: dict[str, Item] = {"": None}
        self.nodes: dict[str, onnx.NodeProto] = {}  # those translated, by name
        self.lost: dict[str, Unsupported | None] = {}  # names without an item, and why
        self.found: list[Unsupported] = []
        self.weight_names = _weight_names(model.graph.node)
        self.kinds = _kinds(model)

    def graph(self, types: Mapping[str, TensorType]) -> tuple[Graph, list[Unsupported]]:
        """The graph for inputs of these types (without outputs when anything is unsupported)."""
        inputs = [leaf(Input, name, type_) for name, type_ in types.items()]
        self.items |= dict(zip(types, inputs, strict=True))
        self.add_initializers(self.model.graph.initializer)
        self.run(self.model.graph.node)
        names = [info.name for info in self.model.graph.output]
        for name in names:
            self._is_lost(name)
        outputs = {} if self.found else {name: self._output(name) for name in names}
        graph = Graph(tuple(inputs), outputs)
        data = {name: self.leaves.data[name] for name in graph.leaves() if name not in types}
        return replace(graph, data=data), self.found

    def without_kernel(self) -> list[Unsupported]:
        """What could be imported, but not compiled to C."""
        values = topological([v for v in self.items.values() if isinstance(v, Value)])
        reasons = {v.source: why_no_kernel(v) for v in values if why_no_kernel(v)}
        return [_unsupported(self.nodes[name], reason) for name, reason in reasons.items()]

    def add_initializers(self, tensors: Iterable[onnx.TensorProto]) -> None:
        for tensor in tensors:
            array = tensor_array(tensor, self.folder)
            weight = self._is_weight(tensor.name, array)
            self.items[tensor.name] = Known(array, tensor.name, weight=weight)

    def _is_weight(self, name: str, array: Array) -> bool:
        """Whether an initializer is learned. A mask or a single number is not, unless noted so."""
        if array.dtype.kind != "f":
            return False
        if name in self.kinds:
            return self.kinds[name] == "PARAMETER"
        if name in self.weight_names:
            return True
        return not self.kinds and array.ndim > 0 and bool(np.isfinite(array).all())

    def _output(self, name: str) -> Value:
        item = self.items.get(name)
        if isinstance(item, Known):
            return self.leaves.get(Param if item.weight else Const, item.name or name, item.array)
        if item is None:
            raise ImportModelError(f"no node computes the output {name!r}; the file was altered")
        return item

    def run(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Translates the nodes in order; those that need something unsupported are left out."""
        for node in nodes:
            lost = [self._is_lost(name) for name in node.input]
            if _key(node) not in TRANSLATIONS and node.op_type != "If":
                self._refuse(node, _unsupported(node))
            elif any(lost):
                self.lost |= dict.fromkeys(node.output)
            else:
                self._run_one(node)

    def _is_lost(self, name: str) -> bool:
        """Whether `name` has no item; its reason is told when it is first asked for."""
        reason = self.lost.get(name)
        if reason is not None:
            self.found.append(reason)
            self.lost[name] = None
        return name in self.lost

    def _refuse(self, node: onnx.NodeProto, reason: Unsupported) -> None:
        self.found.append(reason)
        self.lost |= dict.fromkeys(node.output)

    def _run_one(self, node: onnx.NodeProto) -> None:
        self.nodes[_name(node)] = node
        try:
            check_node(node, self.specification)
            results = self._branch(node) if node.op_type == "If" else self._translated(node)
        except UnsupportedError as error:
            self._refuse(node, _unsupported(node, str(error)))
            return
        except (GraphError, ImportModelError, *_BROKEN) as error:
            words = f"{type(error).__name__}: " if isinstance(error, _BROKEN) else ""
            raise ImportModelError(
                f"node {_name(node)!r} ({_key(node)}): {words}{first_line(error)}"
            ) from error
        for i, name in enumerate(node.output):
            if name and name in self.items:
                raise ImportModelError(f"two nodes compute {name!r}; the file was altered")
            if i < len(results):
                self.items[name] = self._noted(node, name, results[i])
            elif name:
                self.lost[name] = _unsupported(node, f"its output {i} is used")

    def _noted(self, node: onnx.NodeProto, name: str, item: Item) -> Item:
        """A matrix or filter in a Constant that feeds a learned input is a weight all the same."""
        if node.op_type != "Constant" or name not in self.weight_names:
            return item
        learned = isinstance(item, Known) and item.array.dtype.kind == "f" and item.array.ndim > 1
        return replace(item, weight=True) if learned else item  # type: ignore[type-var]

    def _translated(self, proto: onnx.NodeProto) -> list[Item]:
        node = Node(
            proto,
            tuple(self._item(name) for name in proto.input),
            self.opset,
            self.leaves,
            _attributes(proto, self.folder),
        )
        translate = TRANSLATIONS[_key(proto)]
        known = _all_known(node.inputs)
        folded = None if known is None else _folded(node, known, translate)
        if folded is not None:
            return folded
        return with_source(_results(translate(node)), _name(proto))

    def _item(self, name: str) -> Item:
        if name not in self.items:
            raise ImportModelError(f"its input {name!r} is computed by no node before it")
        return self.items[name]

    def _branch(self, node: onnx.NodeProto) -> list[Item]:
        """The items of the branch that a constant condition takes."""
        condition = self._item(node.input[0])
        if not isinstance(condition, Known) or condition.probe is not None:
            raise UnsupportedError("If on a condition that the model computes")
        attributes = _attributes(node, self.folder)
        taken = attributes["then_branch" if condition.array.item() else "else_branch"]
        self.add_initializers(taken.initializer)
        self.run(taken.node)
        if any(self._is_lost(info.name) for info in taken.output):
            raise UnsupportedError("its branch uses unsupported operators")
        return [self._item(info.name) for info in taken.output]


def _results(results: Item | Sequence[Item]) -> list[Item]:
    return list(results) if isinstance(results, list | tuple) else [results]  # type: ignore[list-item]


def _kinds(model: onnx.ModelProto) -> dict[str, str]:
    """PARAMETER, BUFFER, ... for each tensor, where PyTorch noted it."""
    notes = ((v.name, p) for v in model.graph.value_info for p in v.metadata_props)
    return {name: entry.value for name, entry in notes if entry.key == _KIND}


def _weight_names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    pairs = ((n, i) for n in nodes for i in WEIGHT_INPUTS.get(n.op_type, ()))
    return {n.input[i] for n, i in pairs if i < len(n.input)}


# ---- evaluation at import ------------------------------------------------------------------------


def _all_known(items: Sequence[Item]) -> list[Known] | None:
    """The items when all are numbers that never change; inputs that are not given are kept out."""
    given = [i for i in items if i is not None]
    known = [i for i in given if isinstance(i, Known) and not i.weight]
    return known if len(known) == len(given) else None


def _folded(node: Node, known: Sequence[Known], translate: Translation) -> list[Item] | None:
    """The node's results as known numbers; None when they have the batch as a dimension."""
    here = _evaluated(node, translate, [k.array for k in known])
    if here is None:
        return None
    names = node.proto.output
    if all(k.probe is None for k in known):
        return [Known(array, name) for array, name in zip(here, names, strict=False)]
    probes = [k.array if k.probe is None else k.probe for k in known]
    there = _evaluated(node, translate, probes) or []
    if [a.shape for a in here] != [b.shape for b in there]:
        raise UnsupportedError(
            "a dimension depends on the batch size but is no multiple of it; export the model with "
            "a fixed batch size"
        )
    triples = zip(here, there, names, strict=False)
    return [Known(a, name, None if np.array_equal(a, b) else b) for a, b, name in triples]


def _evaluated(node: Node, translate: Translation, arrays: Sequence[Array]) -> list[Array] | None:
    """The node's results when its inputs, those that are given, are `arrays`."""
    leaves, given = Leaves(), iter(arrays)
    names = (str(i) for i in range(len(arrays)))
    inputs = tuple(i and Known(next(given), next(names)) for i in node.inputs)
    results = _results(translate(replace(node, inputs=inputs, leaves=leaves)))
    numbers: list[Array] = []
    for item in results:
        if isinstance(item, Value):
            if holds_batch(*item.shape) or _is_random(item):
                return None
            graph = Graph((), {"result": item}, {}, leaves.data)
            numbers.append(interpret(graph, {}).outputs["result"])
        elif item is not None:
            numbers.append(item.array)
    return numbers


def _is_random(value: Value) -> bool:
    return not isinstance(value.op, Leaf) and any(
        isinstance(v.op, Leaf) and v.op.name == "rng" for v in value.inputs
    )
