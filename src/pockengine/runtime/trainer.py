"""The training loop around a session: epochs, validation, early stopping, the best weights.

    trainer = Trainer(session, lr=1e-2, schedule="cosine")
    history = trainer.fit((x, y), epochs=5, validation=(vx, vy), patience=2)

The order of the samples depends on the seed and the number of the epoch alone.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pockengine.data.augment import Augmentation
from pockengine.data.base import Dataset, Inputs
from pockengine.data.dataset import as_dataset
from pockengine.data.labels import other_numbers
from pockengine.data.loader import Loader
from pockengine.errors import InputError
from pockengine.runtime.history import (
    Callback,
    Ended,
    EpochEnded,
    Event,
    History,
    Row,
    Started,
    Stepped,
)
from pockengine.runtime.prefix import Id
from pockengine.runtime.program import Array
from pockengine.runtime.session import Load, Session
from pockengine.schedules import Cosine

Schedule = Callable[[int, int], float]
"""The factor of the learning rate at a step, from 0, of so many."""

SCHEDULES: Mapping[str, Schedule] = {
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: Cosine(1.0, steps)(step),
}
METRICS = ("accuracy", "loss")


class Trainer:
    """Trains, evaluates and predicts with a session on data sets of any size.

    Samples are given to the session by name where it keeps the features of the frozen prefix, so
    that from the second epoch on they are not even loaded.
    """

    def __init__(
        self,
        session: Session,
        *,
        lr: float = 1e-3,
        schedule: str | Schedule = "constant",
        warmup: int = 0,
        seed: int = 0,
    ) -> None:
        """The rate rises along a line to `lr` over the first `warmup` steps, then follows
        `schedule`: "constant", "cosine" (to 0), or a function of (step, steps) to a factor.

        Raises InputError for a schedule of another name, and for a negative warmup.
        """
        self.session = session
        self._lr, self._schedule, self._warmup = lr, _as_schedule(schedule), warmup
        self._seed = seed
        self._epochs = 0  # of all fits
        if warmup < 0:
            raise InputError(f"warmup is a number of steps of at least 0, got {warmup}")

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        validation: Any = None,
        metric: str | None = None,
        patience: int | None = None,
        keep_best: bool = True,
        augment: Augmentation | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Trains for some epochs; `data` and `validation` are what `as_dataset` takes.

        After each epoch the validation samples are evaluated. `metric` says which epoch is the
        best: "accuracy" (the lower loss of equals) or "loss"; by default accuracy where the loss
        has one. Training stops when `patience` epochs in a row were no better, and at the end the
        weights of the best epoch are put back, unless `keep_best` is off. A further fit goes on
        with other orders of the samples.

        An interrupt (Ctrl-C) ends the training as if it had been planned so. Raises InputError for
        settings and data that do not fit, and NonFiniteLossError; the best weights so far are then
        back too.
        """
        source = _Source(self.session, as_dataset(data), augment)
        judged = None if validation is None else _Source(self.session, as_dataset(validation))
        if judged and (wrong := other_numbers(source.data.classes, judged.data.classes)):
            raise InputError(f"{wrong}; give both the same classes, in the same order")
        judge = _Judge(_checked_metric(self.session, metric), judged, patience, keep_best)
        plan = self._plan(len(source.data), epochs)
        self._epochs += epochs
        return _Run(source, judge, plan, callbacks).all()

    def evaluate(self, data: Any) -> dict[str, float]:
        """The mean loss, and the accuracy where the loss has one; see `Session.evaluate`."""
        return _Source(self.session, as_dataset(data)).evaluate()

    def predict(self, data: Any) -> Any:
        """The model's output for all samples; see `Session.predict`."""
        source = _Source(self.session, as_dataset(data))
        return self.session.predict(source.load, samples=source.ids)

    def _plan(self, samples: int, epochs: int) -> "_Plan":
        """Raises InputError where it would not change a weight."""
        if epochs < 1:
            raise InputError(f"epochs must be at least 1, got {epochs}")
        signature = self.session.signature
        batch = signature.batch * signature.parts
        whole = self.session.full_batches
        steps = epochs * (samples // batch if whole else -(-samples // batch))
        if steps == 0:
            raise InputError(f"every batch must be full: {batch} samples, and there are {samples}")
        if steps < signature.accumulate:
            raise InputError(
                f"the weights change after every {signature.accumulate} batches, and there are "
                f"only {steps}; train for more epochs"
            )
        return _Plan(epochs, steps, batch, whole, self._rate, self._seed, self._epochs)

    def _rate(self, step: int, steps: int) -> float:
        if step < self._warmup:
            return self._lr * (step + 1) / self._warmup
        return self._lr * self._schedule(step - self._warmup, steps - self._warmup)


def _as_schedule(given: str | Schedule) -> Schedule:
    if callable(given):
        return given
    if given not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise InputError(f"no schedule is called {given!r}; there are {known}, or give a function")
    return SCHEDULES[given]


def _checked_metric(session: Session, given: str | None) -> str:
    """The metric, by default the first one that the program computes. Raises InputError."""
    outputs = {t.name for t in session.program.entry("evaluate").outputs}
    known = METRICS if "correct" in outputs else METRICS[1:]
    if given is not None and given not in known:
        raise InputError(f"the program has no metric {given!r}; it has {', '.join(known)}")
    return given or known[0]


# ---- samples -------------------------------------------------------------------------------------


class _Source:
    """A data set as a session takes it: samples by name where their features are kept."""

    def __init__(
        self, session: Session, data: Dataset, augment: Augmentation | None = None
    ) -> None:
        self.session, self.data, self.augment = session, data, augment
        self.named = session.cache is not None and augment is None
        everything = range(len(data))
        self.ids: list[Id] = list(data.ids(everything) if self.named else everything)
        self._index = {name: i for i, name in enumerate(self.ids)}

    def load(self, ids: list[Id]) -> Inputs:
        """The inputs of the samples with these names."""
        return self.data.batch([self._index[name] for name in ids]).x

    def evaluate(self) -> dict[str, float]:
        """The metrics of all samples, which are loaded a batch at a time."""
        return self.session.evaluate(self.load, self.data.labels, samples=self.ids)

    def epoch(self, number: int, batch: int, seed: int) -> Generator["_Given"]:
        """The batches of an epoch. Where they are not given by name, they are loaded ahead."""
        loader = Loader(self.data, batch, seed, self.augment)
        if self.named:
            yield from map(self._by_name, loader.order(number))
            return
        with closing(loader.epoch(number)) as batches:
            for rows, (x, y) in zip(loader.order(number), batches, strict=True):
                yield _Given(len(rows), x, y)

    def _by_name(self, rows: Array) -> "_Given":
        labels = None if self.data.labels is None else self.data.labels[rows]
        return _Given(len(rows), self.load, labels, [self.ids[i] for i in rows])


@dataclass(frozen=True)
class _Given:
    """A batch as `Session.step` takes it, and how many samples it has."""

    count: int
    x: Inputs | Load
    y: Array | None
    names: list[Id] | None = None


# ---- the loop ------------------------------------------------------------------------------------


class _Judge:
    """Evaluates after each epoch, keeps the best weights, and says when it gets no better."""

    def __init__(
        self, metric: str, source: _Source | None, patience: int | None, keep_best: bool
    ) -> None:
        if patience is not None and (patience < 1 or source is None):
            why = "and validation samples" if source is None else f"got {patience}"
            raise InputError(f"patience needs a number of epochs of at least 1, {why}")
        self._metric, self._source = metric, source
        self._patience, self._keep_best = patience, keep_best
        self._weights: dict[str, Array] = {}
        self._waited = 0
        self.best: Row | None = None

    def metrics(self) -> dict[str, float]:
        """Those of the validation samples."""
        return self._source.evaluate() if self._source else {}

    def is_better(self, row: Row) -> bool:
        """Whether this epoch is the best so far; if so, its weights are kept."""
        better = self._source is not None and self._rank(row) > self._rank(self.best)
        self._waited = 0 if better else self._waited + 1
        if better:
            self.best = row
            if self._keep_best and self._source:
                self._weights = self._source.session.state_dict(changing=True)
        return better

    @property
    def is_done(self) -> bool:
        return self._patience is not None and self._waited >= self._patience

    def put_back(self) -> None:
        """The best weights, where they were kept."""
        if self._weights and self._source:
            self._source.session.load_state_dict(self._weights)

    def _rank(self, row: Row | None) -> tuple[float, ...]:
        """Larger is better; what is not a number is worst."""
        if row is None or not all(map(math.isfinite, row.validation.values())):
            return ()
        loss = row.validation["loss"]
        return (row.validation["accuracy"], -loss) if self._metric == "accuracy" else (-loss,)


class _Run:
    """One call of `Trainer.fit`."""

    def __init__(
        self,
        source: _Source,
        judge: _Judge,
        plan: "_Plan",
        callbacks: Sequence[Callback],
    ) -> None:
        self._source, self._judge, self._plan = source, judge, plan
        self._callbacks = callbacks
        self._began = time.perf_counter()
        self._rows: list[Row] = []
        self._step, self._lr = 0, 0.0
        self._losses: list[tuple[float, int]] = []  # of this epoch, with numbers of samples

    def all(self) -> History:
        """Trains to the end, or until patience or an interrupt ends it."""
        self._tell(Started)
        stopped = ""
        try:
            stopped = self._epochs()
        except KeyboardInterrupt:
            stopped = "interrupt"
            if self._losses:
                self._rows.append(self._row({}))
        finally:
            self._source.session.forget_gradients()
            self._judge.put_back()
        history = History(tuple(self._rows), self._judge.best, stopped)
        self._tell(Ended, history=history)
        return history

    def _epochs(self) -> str:
        """Why it ended early, if it did."""
        for number in range(self._plan.epochs):
            if self._judge.is_done:
                return "patience"
            self._epoch(number)
        return ""

    def _epoch(self, number: int) -> None:
        plan = self._plan
        batches = self._source.epoch(plan.first_epoch + number, plan.batch, plan.seed)
        with closing(batches):
            for given in batches:
                if given.count == plan.batch or not plan.whole:
                    self._train(given)
        row = self._row(self._judge.metrics())
        self._rows.append(row)
        self._losses = []
        self._tell(EpochEnded, row=row, is_best=self._judge.is_better(row))

    def _train(self, given: _Given) -> None:
        self._lr = self._plan.rate(self._step, self._plan.steps)
        session = self._source.session
        loss = session.step(given.x, given.y, self._lr, samples=given.names)
        self._losses.append((loss, given.count))
        self._step += 1
        epoch = len(self._rows) + 1
        self._tell(Stepped, epoch=epoch, step=self._step, loss=loss, lr=self._lr)

    def _row(self, metrics: Mapping[str, float]) -> Row:
        total = sum(count for _, count in self._losses)
        loss = sum(loss * count for loss, count in self._losses) / total
        seconds = time.perf_counter() - self._began
        return Row(len(self._rows) + 1, self._step, loss, self._lr, seconds, metrics)

    def _tell(self, kind: type[Event], **more: Any) -> None:
        for callback in self._callbacks:
            callback(kind(self._plan.epochs, self._plan.steps, **more))


@dataclass(frozen=True)
class _Plan:
    """How much a fit trains: `steps` batches in all, in epochs numbered from `first_epoch` on."""

    epochs: int
    steps: int
    batch: int
    whole: bool  # a smaller batch is left out
    rate: Callable[[int, int], float]
    seed: int
    first_epoch: int
