"""The NumPy back end: runs a plan by each operator's reference, in the bytes that were planned.

It is the oracle, of the operators and of the plan alike: a result that overwrites what is still
needed shows up as a wrong number.
"""

from collections.abc import Mapping

import numpy as np

from pockengine.backends.code import Code
from pockengine.ir.op import Array, Value
from pockengine.ir.schedule import Step, storage
from pockengine.ir.types import NUMPY
from pockengine.plan.planner import Plan
from pockengine.target import Target


def build(plan: Plan, target: Target) -> Code:
    """Code that interprets the plan."""
    return Code(lambda threads: PlanInterpreter(plan))


class PlanInterpreter:
    """Executes the steps of a plan on an arena."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def close(self) -> None:
        """Nothing to stop."""

    def run(self, entry: str, arena: Array) -> int:
        """Runs an entry point; 3 when the loss is not finite, else 0."""
        planned = self.plan.entries[entry]
        loss = planned.schedule.loss_step()
        for number, step in enumerate(planned.schedule.steps):
            self._step(entry, step, arena)
            if number == loss:
                value = self._view(entry, planned.schedule.graph.outputs["loss"], arena)
                if not np.isfinite(value).all():
                    return 3
        return 0

    def _step(self, entry: str, step: Step, arena: Array) -> None:
        env: dict[Value, Array] = {}
        for value in step.values:
            inputs = [self._operand(entry, x, env, arena) for x in value.inputs]
            env[value] = value.op.ref(*inputs).astype(NUMPY[value.dtype], copy=False)
        # All results are computed before the first is stored: one may lie on another's operand.
        stored = [(v, env[v].copy()) for v in step.results]
        for value, array in stored:
            self._view(entry, value, arena)[...] = array
        for source, leaf in step.copies:
            content = self._view(entry, source, arena).reshape(leaf.shape)
            self._view(entry, leaf, arena)[...] = content

    def _operand(self, entry: str, x: Value, env: Mapping[Value, Array], arena: Array) -> Array:
        owner = storage(x)
        if owner in env:
            return env[owner].reshape(x.shape)
        return self._view(entry, owner, arena).reshape(x.shape)

    def _view(self, entry: str, value: Value, arena: Array) -> Array:
        offset = self.plan.offset(entry, value)
        raw = arena[offset : offset + value.type.nbytes]
        return raw.view(NUMPY[value.dtype]).reshape(value.shape)
