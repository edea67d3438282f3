"""A compiled program, with the runtime alone: neither the compiler nor a framework is imported."""

from typing import Any

from benchmarks.contenders import RATE, Begin, Case, Step
from pockengine.runtime.program import Program
from pockengine.runtime.session import Session


def load(case: Case, variant: str) -> Begin:
    inputs, labels = case.batch()

    def begin() -> tuple[Step, dict[str, Any]]:
        session = Session.load(case.folder / f"{case.scheme}.pock")
        weights = min(weight_bytes(session.program), case.facts["weight_bytes"])
        sizes = {"planned": session.arena_bytes, "weights": weights}
        return lambda: session.step(inputs, labels, lr=RATE), sizes

    return begin


def weight_bytes(program: Program) -> int:
    """The weights in the arena, which other contenders had in memory before they began."""
    leaves = program.signature.leaves.values()
    return sum(leaf.nbytes for leaf in leaves if leaf.kind in ("frozen", "trained"))
