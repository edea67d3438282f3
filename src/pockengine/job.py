"""Everything that decides a program, before anything is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pockengine.autodiff.objective import Loss, OwnOutput, as_loss
from pockengine.errors import InputError
from pockengine.ir.graph import Graph
from pockengine.optim import Clip, Optimizer
from pockengine.passes.samples import sums_over_samples
from pockengine.scheme import Channels, UpdateScheme
from pockengine.structure import uses
from pockengine.target import Target

Precision = Literal["f32", "bf16", "bf16_products"]


def as_precision(name: str) -> Precision:
    """The precision of that name. Raises InputError for another."""
    if name not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise InputError(f"no precision is called {name!r}; there are {known}")
    return name  # type: ignore[return-value]


@dataclass(frozen=True)
class Job:
    """Everything that decides a program. `selection` is the scheme, resolved for the graph.

    A step is given `batch` samples and computes `micro_batch` of them at a time. A gated program
    trains of its scheme what `Session.set_gates` opens, and its steps are those of a program for
    that part alone (in f32: what is closed is not stored in bf16, as what is frozen is).
    """

    graph: Graph
    loss: Loss
    optimizer: Optimizer | str
    scheme: UpdateScheme
    selection: Mapping[str, Channels | None]
    batch: int
    target: Target
    clip: Clip | None
    accumulate: int
    micro_batch: int | None
    precision: Precision
    tune: bool
    gated: bool = False

    @staticmethod
    def of(
        graph: Graph,
        loss: Loss | str,
        optimizer: Optimizer | str,
        scheme: UpdateScheme | None,
        batch: int,
        target: Target | None,
        clip: Clip | None = None,
        accumulate: int = 1,
        micro_batch: int | None = None,
        precision: Precision = "f32",
        tune: bool = False,
        gated: bool = False,
    ) -> "Job":
        """A job with names looked up and defaults filled in.

        Its target has bf16 dot products only where the precision lets them be used, so that other
        programs run on machines without them too.
        """
        if batch < 1 or accumulate < 1:
            raise InputError(f"batch and accumulate must be at least 1, got {batch}, {accumulate}")
        chosen, machine = scheme or UpdateScheme.full(graph), target or Target.host()
        rounds = as_precision(precision) == "bf16_products"
        return Job(
            graph,
            as_loss(loss),
            optimizer,
            chosen,
            chosen.resolve(graph),
            batch,
            machine if rounds else machine.without_bf16_dots(),
            clip,
            accumulate,
            micro_batch,
            precision,
            tune,
            gated,
        )

    def with_scheme(self, scheme: UpdateScheme) -> "Job":
        """The same, for another scheme. Raises SchemeError for one that does not fit the model."""
        return replace(self, scheme=scheme, selection=scheme.resolve(self.graph))

    @property
    def gates(self) -> dict[str, int | None]:
        """What has a gate: for each tensor its input-channel axis, None where it has none."""
        found = uses(self.graph) if self.gated else {}
        return {name: found[name].axis for name in self.selection if name in found}

    @property
    def samples(self) -> int:
        """How many samples an entry point computes at once."""
        return self.micro_batch or self.batch

    @property
    def divisible(self) -> bool:
        """Whether a step may be computed in parts."""
        return sums_over_samples(self.graph) and not isinstance(self.loss, OwnOutput)
