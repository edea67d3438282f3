"""Shared by the front ends: all unsupported operators of a model are found, and told, at once.

Some can be imported, and interpreted by NumPy, but no kernel of the C back end computes them: a
check lists these too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value


@dataclass(frozen=True)
class Unsupported:
    """One node of a model that pockengine cannot import, or not compile to C."""

    op: str  # the source framework's name of the operator, e.g. aten.fft_rfft.default
    node: str  # the node's name in the source graph
    source: str = ""  # module path or scope, and source line, where known
    reason: str = "no such operator"  # or what about its parameters is not supported


def why_no_kernel(value: Value) -> str:
    """Why the C back end has no kernel for what a value slides windows over; empty if it has."""
    spatial = value.type.rank - 2 if hasattr(value.op, "channels_last") else 0
    return f"the C back end takes 1 or 2 spatial dims, not {spatial}" if spatial > 2 else ""


def report(found: Sequence[Unsupported]) -> str:
    """A table with one line for each operator and reason: count, name, reason, then its places."""
    groups: dict[tuple[str, str], list[Unsupported]] = {}
    for item in found:
        groups.setdefault((item.op, item.reason), []).append(item)
    lines = [f"{len(found)} nodes use operators that pockengine does not support:"]
    for (op, reason), items in sorted(groups.items()):
        lines.append(f"  {len(items)} x {op}: {reason}")
        lines += [f"      at {_place(item)}" for item in items]
    lines.append("Replace these parts of the model, or freeze and cut the model before them.")
    return "\n".join(lines)


def refuse(found: Sequence[Unsupported]) -> None:
    """Raises UnsupportedError with the whole table when anything was found."""
    if found:
        raise UnsupportedError(report(found))


def _place(item: Unsupported) -> str:
    return f"{item.node} ({item.source})" if item.source else item.node
