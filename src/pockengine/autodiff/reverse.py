"""Reverse mode: gradients of one scalar, as values of the same graph.

    y = f(x)    with f an operator and g = dL/dy    ->    dL/dx += f.vjp(g, y, x)

A rule of an operator is the formula of the textbook. What is true of every operator is done here,
once: gradients of several users are added, broadcasting is undone, and only values between what is
wanted and the scalar are walked, so that a frozen tensor costs nothing.
"""

from collections.abc import Sequence

from pockengine.errors import GraphError
from pockengine.ir.graph import topological
from pockengine.ir.op import Gradients, Value, sourced
from pockengine.ops.build import add, scalar, sum_to


def gradients(y: Value, wanted: Sequence[Value], seed: Value | None = None) -> dict[Value, Value]:
    """Gradient of the scalar `y` for each wanted value that it depends on, of the value's own type.

    `seed` is the gradient of `y` itself, 1 if not given. A value that `y` does not depend on, or
    only through integers or steps, has no entry. Raises GraphError when `y` is no scalar, or when
    an operator on the way has no gradient.
    """
    if y.shape != () or not y.type.is_float:
        raise GraphError(
            f"gradients are taken of a floating-point scalar, got {y.type} from {y.op}"
        )
    order = topological([y])
    needed = _between(order, wanted)
    found = {y: seed or scalar(1.0, y.dtype)}
    for value in reversed(order):
        if value in found and any(x in needed for x in value.inputs):
            parts = _vjp(found[value], value)
            for x, part in zip(value.inputs, parts, strict=True):
                if x in needed and part is not None:
                    _accumulate(found, x, part)
    return {x: found[x] for x in wanted if x in found}


def _between(order: Sequence[Value], wanted: Sequence[Value]) -> set[Value]:
    """The floating-point values that depend on a wanted one, the wanted ones included."""
    needed = set(wanted)
    for value in order:
        if value.type.is_float and any(x in needed for x in value.inputs):
            needed.add(value)
    return needed


def _vjp(g: Value, y: Value) -> Gradients:
    try:
        with sourced(y.source):
            return y.op.vjp(g, y, *y.inputs)
    except GraphError as error:
        place = f" at {y.source}" if y.source else ""
        raise GraphError(f"cannot differentiate {y.op}{place}: {error}") from error


def _accumulate(found: dict[Value, Value], x: Value, part: Value) -> None:
    part = sum_to(part, x.shape)
    found[x] = add(found[x], part) if x in found else part
