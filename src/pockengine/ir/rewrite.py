"""The engines that passes use: rebuild a graph, apply rules to a fixed point, set the batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import is_
from typing import Any

from pockengine.ir.graph import Graph, Leaf, topological
from pockengine.ir.op import Op, Value
from pockengine.ir.types import TensorType, dim_at

Rule = Callable[[Value], Value | None]
"""Gets a value whose operands are rewritten; returns its replacement, or None to keep it."""


def only(*kinds: type[Op]) -> Callable[[Rule], Rule]:
    """Marks a rule that matches no other operators than these, so that it is not tried on them."""

    def mark(rule: Rule) -> Rule:
        rule.kinds = kinds  # type: ignore[attr-defined]
        return rule

    return mark


def rebuild(value: Value, inputs: Sequence[Value]) -> Value:
    """The same operator on other operands; the value itself when nothing changed."""
    old = value.inputs
    if all(map(is_, old, inputs)):
        return value
    if all(a.type == b.type for a, b in zip(old, inputs, strict=True)):
        return Value(value.op, tuple(inputs), value.type, value.source)
    return value.op(*inputs, source=value.source)


def transform(graph: Graph, change: Callable[[Value], Value]) -> Graph:
    """Rebuilds the graph bottom-up; `change` gets each value with its operands already changed."""
    return substitute(graph, {}, change)


def substitute(
    graph: Graph,
    replacements: Mapping[Value, Value],
    change: Callable[[Value], Value] = lambda value: value,
) -> Graph:
    """Rebuilds the graph with `replacements` for their keys, and `change` applied to the rest."""
    done: dict[Value, Value] = dict(replacements)
    for value in graph.values():
        if value not in done:
            done[value] = change(rebuild(value, [done[v] for v in value.inputs]))
    if all(new is old for old, new in done.items()):
        return graph
    return replace(
        graph,
        inputs=tuple(done[v] for v in graph.inputs),
        outputs={name: done[v] for name, v in graph.outputs.items()},
        updates={name: done[v] for name, v in graph.updates.items()},
    )


def rewrite(graph: Graph, rules: Sequence[Rule], limit: int = 100) -> Graph:
    """Applies the first rule that matches, at each value, until none does.

    A replacement is itself rewritten, operands first, so that a rule may build a tree that other
    rules go on with. Raises RuntimeError when one value is replaced more than `limit` times.
    """
    rewriting = _Rewriting(rules, limit)
    rewriting.settle(graph.values())
    return substitute(graph, rewriting.done)


class _Rewriting:
    """One run of `rewrite`; `done` maps each value to its new self."""

    def __init__(self, rules: Sequence[Rule], limit: int) -> None:
        self.matching, self.limit = _Matching(rules), limit
        self.done: dict[Value, Value] = {}

    def settle(self, values: Iterable[Value]) -> None:
        """Rewrites values whose operands come before them."""
        done = self.done
        for value in values:
            if value not in done:
                current = self.settled(rebuild(value, [done[v] for v in value.inputs]))
                done[value] = done[current] = current

    def settled(self, value: Value) -> Value:
        """What a value becomes, its operands being rewritten."""
        done = self.done
        for _ in range(self.limit):
            tried = self.matching[type(value.op)]
            following = next((r for rule in tried if (r := rule(value)) is not None), None)
            if following is None:
                return value
            if not all(v in done or v is value for v in following.inputs):
                self.settle(topological([following], done))
                return done[following]
            value = rebuild(following, [done.get(v, v) for v in following.inputs])
        raise RuntimeError(f"rules do not come to an end at {value}")


class _Matching(dict[type[Op], list[Rule]]):
    """The rules that may match an operator, in their order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, kind: type[Op]) -> list[Rule]:
        found = [r for r in self.rules if issubclass(kind, getattr(r, "kinds", Op))]
        return self.setdefault(kind, found)


def with_batch(graph: Graph, batch: int) -> Graph:
    """The graph for one batch size: every dimension `k * BATCH` becomes `k * batch`."""
    done: dict[Value, Value] = {}
    for value in graph.values():
        op = _op_with_batch(value.op, batch)
        done[value] = op(*(done[v] for v in value.inputs), source=value.source)
    return substitute(graph, done)


def _op_with_batch(op: Op, batch: int) -> Op:
    if isinstance(op, Leaf):
        return replace(op, type=TensorType(op.type.dtype, _scaled(op.type.shape, batch)))
    changes = {
        f.name: _scaled(getattr(op, f.name), batch)
        for f in fields(op)  # type: ignore[arg-type]
        if f.metadata.get("dims")
    }
    return replace(op, **changes) if changes else op  # type: ignore[type-var]


def _scaled(dims: Any, batch: int) -> Any:
    if isinstance(dims, tuple):
        return tuple(_scaled(d, batch) for d in dims)
    return dim_at(dims, batch) if isinstance(dims, int) else dims
