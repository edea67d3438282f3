"""What training tells: an event for each thing that happens, and a history of all epochs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Row:
    """An epoch: the mean training loss, and the metrics of the validation samples after it.

    `step` counts batches from the beginning, `lr` is the rate of the last one, and `seconds` are
    those since the beginning. Of an epoch that was interrupted there are no metrics.
    """

    epoch: int
    step: int
    loss: float
    lr: float
    seconds: float
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """The epochs of a training; `stopped` says why it ended early ("patience", "interrupt")."""

    rows: Sequence[Row]
    best: Row | None = None  # with the best metric, of those with validation
    stopped: str = ""

    def to_json(self) -> str:
        """The history as JSON."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True)
class Event:
    """Something that happened; `epochs` and `steps` are how many there are to be in all."""

    epochs: int
    steps: int


@dataclass(frozen=True)
class Started(Event):
    """Training begins."""


@dataclass(frozen=True)
class Stepped(Event):
    """A batch was trained on; `step` and `epoch` count from 1."""

    epoch: int
    step: int
    loss: float
    lr: float


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch and its validation are over; `is_best` if its metric is the best so far."""

    row: Row
    is_best: bool


@dataclass(frozen=True)
class Ended(Event):
    """Training is over, and the best weights are back in their place."""

    history: History


Callback = Callable[[Event], None]


def plain_progress(out: TextIO | None = None) -> Callback:
    """A callback that writes a line for each epoch, to the standard error unless told."""

    def tell(event: Event) -> None:
        if isinstance(event, EpochEnded):
            mark = "  *" if event.is_best else ""
            print(_line(event.row, event.epochs) + mark, file=out or sys.stderr, flush=True)
        if isinstance(event, Ended) and event.history.stopped:
            print(f"stopped early: {event.history.stopped}", file=out or sys.stderr, flush=True)

    return tell


def _line(row: Row, epochs: int) -> str:
    metrics = "".join(f"  validation {name} {value:.4f}" for name, value in row.validation.items())
    head = f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.4f}"
    return f"{head}{metrics}  lr {row.lr:.1e}  {row.seconds:.1f} s"
