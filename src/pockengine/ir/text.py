"""Prints a graph, one value a line, and parses what was printed.

    graph {
      %0 = Input(name='x') : f32[N,4]
      %1 = Param(name='fc.weight') : f32[3,4]
      %2 = MatMul(transpose_a=False, transpose_b=True)(%0, %1) : f32[N,3]  # fc
      output logits = %2
    }

The data of the leaves is not part of the text. Printing what was parsed gives the same text.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Array, Op, Value
from pockengine.ir.types import TensorType

_LINE = re.compile(
    r"(?P<id>%\d+) = (?P<op>\w+)\((?P<fields>.*?)\)(?:\((?P<args>[%\d, ]*)\))? : "
    r"(?P<type>\w+\[[^\]]*\])(?:  # (?P<source>.*))?"
)


def print_graph(graph: Graph) -> str:
    """The graph as text."""
    ids = {value: f"%{i}" for i, value in enumerate(graph.values())}
    lines = [f"  {_value_text(value, ids)}" for value in ids]
    lines += [f"  input {ids[v]}" for v in graph.inputs]
    lines += [f"  output {name} = {ids[v]}" for name, v in graph.outputs.items()]
    lines += [f"  update {name} = {ids[v]}" for name, v in graph.updates.items()]
    return "\n".join(["graph {", *lines, "}", ""])


def _value_text(value: Value, ids: Mapping[Value, str]) -> str:
    op = value.op
    names = ["name"] if isinstance(op, Leaf) else [f.name for f in fields(op)]  # type: ignore[arg-type]
    parameters = ", ".join(f"{name}={getattr(op, name)!r}" for name in names)
    args = f"({', '.join(ids[v] for v in value.inputs)})" if value.inputs else ""
    source = f"  # {value.source}" if value.source else ""
    return f"{ids[value]} = {type(op).__name__}({parameters}){args} : {value.type}{source}"


def parse_graph(
    text: str, ops: Mapping[str, type[Op]], data: Mapping[str, Array] | None = None
) -> Graph:
    """The graph that `print_graph` printed. `ops` maps class names to operators (`ops.OPS`).

    Raises GraphError naming the line that cannot be read.
    """
    values: dict[str, Value] = {}
    inputs: list[Value] = []
    roots: dict[str, dict[str, Value]] = {"output": {}, "update": {}}
    for line in map(str.strip, text.splitlines()):
        try:
            if line.startswith("%"):
                name, value = _parse_value(line, ops, values)
                values[name] = value
            elif line.startswith("input "):
                inputs.append(values[line.split()[1]])
            elif line.split(" ")[0] in roots:
                kind, rest = line.split(" ", 1)
                name, _, operand = rest.rpartition(" = ")
                roots[kind][name] = values[operand]
        except (KeyError, ValueError, TypeError, SyntaxError) as error:
            raise GraphError(f"cannot read this line of a graph: {line!r} ({error})") from error
    return Graph(tuple(inputs), roots["output"], roots["update"], dict(data or {}))


def _parse_value(
    line: str, ops: Mapping[str, type[Op]], values: Mapping[str, Value]
) -> tuple[str, Value]:
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError("expected '%id = Op(fields)(%operands) : type'")
    type_ = TensorType.parse(match["type"])
    call = ast.parse(f"f({match['fields']})", mode="eval").body
    parameters: dict[str, Any] = {str(k.arg): _literal(k.value) for k in call.keywords}  # type: ignore[attr-defined]
    cls = ops[match["op"]]
    op = cls(**parameters, type=type_) if issubclass(cls, Leaf) else cls(**parameters)
    inputs = tuple(values[i.strip()] for i in (match["args"] or "").split(",") if i.strip())
    return match["id"], Value(op, inputs, type_, match["source"] or "")


def _literal(node: ast.expr) -> object:
    # Infinity and NaN are names in a repr, not literals.
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name):
        return -float(node.operand.id)
    return ast.literal_eval(node)
