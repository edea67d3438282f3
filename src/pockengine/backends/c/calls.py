"""The kernel of each operator: its `kernel` name -> the function that writes the call or calls."""

from collections.abc import Mapping

from pockengine.backends.c import (
    bf16_calls,
    conv_calls,
    index_calls,
    matmul_calls,
    pool_calls,
    row_calls,
)
from pockengine.backends.c.call import Call, Candidates, Writer
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.schedule import storage
from pockengine.ops.panels import FromPanels
from pockengine.target import Target

Choices = Mapping[str, str]
"""The variant to take for each value that has several, by its `signature`."""

_SEVERAL: dict[str, Candidates] = {
    "conv": conv_calls.conv,
    "conv_input_grad": conv_calls.conv_input_grad,
    "conv_weight_grad": conv_calls.conv_weight_grad,
    "matmul": matmul_calls.matmul,
    "matmul_panels": matmul_calls.matmul_panels,
    "matmul_bf16": bf16_calls.matmul,
    "matmul_panels_bf16": bf16_calls.matmul_panels,
    "conv_bf16": bf16_calls.conv,
    "conv_input_grad_bf16": bf16_calls.conv_input_grad,
}
_WRITERS: dict[str, Writer] = {
    "max_pool": pool_calls.max_pool,
    "max_pool_grad": pool_calls.max_pool_grad,
    "avg_pool": pool_calls.avg_pool,
    "avg_pool_grad": pool_calls.avg_pool_grad,
    "adaptive_avg_pool": pool_calls.adaptive_avg_pool,
    "adaptive_avg_pool_grad": pool_calls.adaptive_avg_pool_grad,
    "adaptive_max_pool": pool_calls.adaptive_max_pool,
    "adaptive_max_pool_grad": pool_calls.adaptive_max_pool_grad,
    "resize": pool_calls.resize,
    "resize_grad": pool_calls.resize,
    "reduce": row_calls.reduce,
    "argmax": row_calls.argmax,
    "softmax": row_calls.softmax,
    "softmax_grad": row_calls.softmax,
    "log_softmax": row_calls.softmax,
    "log_softmax_grad": row_calls.softmax,
    "cross_entropy": row_calls.cross_entropy,
    "cross_entropy_grad": row_calls.cross_entropy,
    "normalize": row_calls.normalize,
    "normalize_grad": row_calls.normalize,
    "rms_normalize": row_calls.normalize,
    "rms_normalize_grad": row_calls.normalize,
    "batch_mean": row_calls.batch_statistic,
    "batch_variance": row_calls.batch_statistic,
    "put": index_calls.put,
    "gather": index_calls.gather,
    "scatter_add": index_calls.scatter_add,
    "gather_elements": index_calls.gather_elements,
    "scatter_add_elements": index_calls.scatter_add_elements,
    "cumsum": index_calls.cumsum,
    "uniform": index_calls.uniform,
}


def candidates(value: Value, names: Mapping[Value, str], target: Target) -> tuple[Call, ...]:
    """The calls that can compute `value`, best guess first; `names` are the C variables of what is
    stored, and of the panels of an operand that is not.

    Raises UnsupportedError where the C back end has no kernel.
    """
    stored = [storage(x) for x in value.inputs]
    panels = [x not in names for x in stored]  # a FromPanels that no step stores
    operands = [names[x.inputs[0] if p else x] for x, p in zip(stored, panels, strict=True)]
    kernel = f"{value.op.kernel}_panels" if any(panels) else value.op.kernel
    if f"{kernel}_bf16" in _SEVERAL and any(x.dtype == "bf16" for x in value.inputs):
        kernel = f"{kernel}_bf16"
    if kernel in _SEVERAL:
        return _SEVERAL[kernel](value, operands, target)
    if kernel in _WRITERS:
        return (_WRITERS[kernel](value, operands, target),)
    where = f" ({value.source})" if value.source else ""
    raise UnsupportedError(f"the C back end has no kernel for {value.op}{where}")


def call(value: Value, names: Mapping[Value, str], target: Target, variant: str) -> Call:
    """The candidate of that name."""
    return next(c for c in candidates(value, names, target) if c.variant == variant)


def signature(value: Value) -> str:
    """All that decides how long a kernel takes: the operator, and how its operands lie."""

    def operand(x: Value) -> str:
        return f"{x.type} in panels" if isinstance(storage(x).op, FromPanels) else str(x.type)

    return f"{value.op} ({', '.join(map(operand, value.inputs))})"


def row_length(value: Value) -> int | None:
    """Elements an item of the value's kernel, if its items are whole rows; else None."""
    names = {storage(x): "x" for x in value.inputs}
    made = candidates(value, names, Target.named("sse"))[0]
    return value.type.size // made.items if made.rows else None
