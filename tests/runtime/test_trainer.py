"""The training loop: what it trains on, when it stops, which weights it leaves, what it tells."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import ConvNet, Judge, image_graph, seeded
from torch import nn

import pockengine as pe
from pockengine.data.augment import Augment
from pockengine.data.base import Batch
from pockengine.data.dataset import ArrayDataset
from pockengine.data.loader import Loader
from pockengine.errors import InputError, NonFiniteLossError
from pockengine.runtime.features import FeatureCache
from pockengine.runtime.history import (
    Callback,
    Ended,
    EpochEnded,
    Event,
    Started,
    Stepped,
    plain_progress,
)
from pockengine.runtime.program import Program
from pockengine.runtime.trainer import Trainer

ONE = pe.Target.host(threads=1)
BATCH = 8


def samples(count: int, seed: int = 0) -> ArrayDataset:
    """Points around three centres, with the number of the centre."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(5).standard_normal((3, 6))
    x = centres[labels] + 0.3 * rng.standard_normal((count, 6))
    return ArrayDataset(x.astype(np.float32), labels, ("a", "b", "c"))


def program(**settings: Any) -> Program:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    graph = pe.import_torch(model, torch.zeros(2, 6))
    settings = {"target": ONE, "batch": BATCH, "optimizer": pe.SGD(momentum=0.9)} | settings
    return pe.compile(graph, **settings)


@pytest.fixture(scope="module")
def plain() -> Program:
    return program()


def states_equal(a: pe.Session, b: pe.Session) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(np.array_equal(left[name], right[name]) for name in left)


class Told(list[Event]):
    """A callback that remembers."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


# ---- what is trained -----------------------------------------------------------------------------


def test_fit_is_the_steps_of_the_loader(plain: Program) -> None:
    data = samples(21)
    with pe.Session(plain) as session, pe.Session(plain) as other:
        history = Trainer(session, lr=0.05, seed=4).fit(data, epochs=2)
        losses = []
        for epoch in range(2):
            for x, y in Loader(data, BATCH, seed=4).epoch(epoch):
                losses.append((other.step(x, y, lr=0.05), len(x)))
        assert states_equal(session, other)
        for row, part in zip(history.rows, (losses[:3], losses[3:]), strict=True):
            assert row.loss == pytest.approx(sum(loss * n for loss, n in part) / 21)
        assert [(row.epoch, row.step) for row in history.rows] == [(1, 3), (2, 6)]
        assert history.rows[0].seconds < history.rows[1].seconds
        assert history.best is None and history.stopped == ""


def test_it_learns(plain: Program) -> None:
    with pe.Session(plain) as session:
        trainer = Trainer(session, lr=0.1, schedule="cosine", warmup=4)
        history = trainer.fit(samples(60), epochs=5, validation=samples(30, seed=1))
        assert history.best is not None
        assert history.best.validation["accuracy"] == 1.0
        assert trainer.evaluate(samples(31, seed=2))["accuracy"] == 1.0
        assert trainer.predict(samples(31, seed=2)).argmax(1).tolist() == [*range(3)] * 10 + [0]


def test_another_fit_goes_on(plain: Program) -> None:
    data = samples(20)
    with pe.Session(plain) as once, pe.Session(plain) as twice:
        Trainer(once, lr=0.05).fit(data, epochs=2)
        trainer = Trainer(twice, lr=0.05)
        trainer.fit(data)
        trainer.fit(data)
        assert states_equal(once, twice)


def test_arrays_are_data_too(plain: Program) -> None:
    data = samples(16)
    with pe.Session(plain) as a, pe.Session(plain) as b:
        Trainer(a).fit(data)
        Trainer(b).fit((data.x, data.labels))
        assert states_equal(a, b)
        assert Trainer(a).evaluate((data.x, data.labels)) == b.evaluate(data.x, data.labels)


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_takes_the_batch_that_was_asked_for(plain: Program, size: int) -> None:
    with pe.Session(plain) as whole, pe.Session(program(micro_batch=size)) as parts:
        for session in (whole, parts):
            history = Trainer(session, lr=0.05).fit(samples(20), epochs=2)
            assert history.rows[-1].step == 6
        for name, array in whole.state_dict().items():
            np.testing.assert_allclose(array, parts.state_dict()[name], 1e-4, 1e-6)


def test_what_accumulates_at_the_end_is_dropped() -> None:
    with pe.Session(program(accumulate=2)) as session, pe.Session(session.program) as other:
        data = samples(24)
        Trainer(session, lr=0.05).fit(data)
        for x, y in list(Loader(data, BATCH).epoch(0))[:2]:
            other.step(x, y, lr=0.05)
        assert states_equal(session, other)
        for s in (session, other):
            Trainer(s, lr=0.05).fit(data, epochs=2)
        assert states_equal(session, other)


def test_a_loss_of_its_own_takes_full_batches() -> None:
    graph = pe.import_torch(seeded(Judge), (torch.zeros(2, 4), torch.zeros(2)))
    compiled = pe.compile(graph, loss=pe.OwnOutput(), batch=4, target=ONE)
    rng = np.random.default_rng(0)
    x, wanted = rng.standard_normal((10, 4)), rng.standard_normal(10)
    data = ArrayDataset((x.astype(np.float32), wanted.astype(np.float32)))
    with pe.Session(compiled) as session:
        history = Trainer(session, lr=0.05).fit(data, epochs=3)
        assert history.rows[-1].step == 6
        assert history.rows[-1].loss < history.rows[0].loss
        with pytest.raises(
            InputError, match="every batch must be full: 4 samples, and there are 3"
        ):
            Trainer(session).fit(data.subset(range(3)))


# ---- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ({"warmup": 2}, [0.5, 1, 1, 1]),
        ({"warmup": 2, "schedule": "cosine"}, [0.5, 1, 1, 0.5]),
        ({"warmup": 8}, [0.125, 0.25, 0.375, 0.5]),
        ({"schedule": lambda step, steps: step / steps}, [0, 0.25, 0.5, 0.75]),
    ],
)
def test_rates(plain: Program, settings: dict[str, Any], rates: list[float]) -> None:
    told = Told()
    with pe.Session(plain) as session:
        Trainer(session, lr=0.01, **settings).fit(samples(16), epochs=2, callbacks=[told])
    found = [event.lr for event in told.of(Stepped)]
    np.testing.assert_allclose(found, 0.01 * np.array(rates), atol=1e-12)


# ---- validation ----------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, metrics: list[tuple[float, float]]) -> None:
    """Lets evaluations give these accuracies and losses."""
    given = iter(metrics)

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        accuracy, loss = next(given)
        return {"loss": loss, "accuracy": accuracy}

    monkeypatch.setattr(pe.Session, "evaluate", evaluate)


NAN = float("nan")


@pytest.mark.parametrize(
    ("metric", "metrics", "best"),
    [
        (None, [(0.5, 1.0), (0.7, 3.0), (0.6, 0.5), (0.6, 0.4)], 2),
        ("accuracy", [(0.5, 1.0), (0.5, 0.8), (0.5, 0.9), (0.5, 0.8)], 2),
        ("loss", [(0.5, 1.0), (0.7, 3.0), (0.6, 0.5), (0.6, 0.5)], 3),
        ("loss", [(0.5, NAN), (0.7, 3.0), (0.6, NAN), (0.6, 4.0)], 2),
        ("accuracy", [(0.5, NAN), (0.7, NAN), (0.6, NAN), (0.6, NAN)], None),
    ],
)
def test_the_best_weights_are_put_back(
    monkeypatch: pytest.MonkeyPatch,
    plain: Program,
    metric: str | None,
    metrics: list[tuple[float, float]],
    best: int | None,
) -> None:
    scripted(monkeypatch, metrics)
    told = Told()
    with pe.Session(plain) as session, pe.Session(plain) as other:
        history = Trainer(session, lr=0.05).fit(
            samples(16), 4, validation=samples(8), metric=metric, callbacks=[told]
        )
        assert (history.best.epoch if history.best else None) == best
        marked = [event.row.epoch for event in told.of(EpochEnded) if event.is_best]
        assert (marked or [None])[-1] == best
        Trainer(other, lr=0.05).fit(samples(16), epochs=best or 4)
        assert states_equal(session, other)


def test_keeping_the_last_weights(monkeypatch: pytest.MonkeyPatch, plain: Program) -> None:
    scripted(monkeypatch, [(0.9, 1.0), (0.1, 1.0)])
    with pe.Session(plain) as session, pe.Session(plain) as other:
        history = Trainer(session, lr=0.05).fit(
            samples(16), 2, validation=samples(8), keep_best=False
        )
        Trainer(other, lr=0.05).fit(samples(16), 2)
        assert states_equal(session, other)
        assert history.best is not None and history.best.epoch == 1


def test_running_statistics_belong_to_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [(0.9, 1.0), (0.1, 1.0)])
    graph = image_graph(seeded(ConvNet, training=True))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3, 12, 12)).astype(np.float32)
    data = ArrayDataset(x, np.arange(8) % 5)
    with pe.Session(pe.compile(graph, batch=4, target=ONE)) as session:
        Trainer(session).fit(data, 2, validation=data)
        assert session.state_dict()["norm.num_batches_tracked"] == 2


@pytest.mark.parametrize(
    ("patience", "accuracies", "epochs", "stopped"),
    [
        (1, [0.5, 0.4], 2, "patience"),
        (2, [0.5, 0.4, 0.6, 0.5, 0.6], 5, "patience"),
        (2, [0.5, 0.4, 0.6, 0.5, 0.7, 0.1], 6, ""),
        (None, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 6, ""),
    ],
)
def test_patience(
    monkeypatch: pytest.MonkeyPatch,
    plain: Program,
    patience: int | None,
    accuracies: list[float],
    epochs: int,
    stopped: str,
) -> None:
    scripted(monkeypatch, [(accuracy, 1.0) for accuracy in accuracies])
    with pe.Session(plain) as session:
        history = Trainer(session).fit(samples(8), 6, validation=samples(8), patience=patience)
    assert len(history.rows) == epochs
    assert history.stopped == stopped


def test_evaluation_loads_a_batch_at_a_time(plain: Program) -> None:
    class Counting(ArrayDataset):
        def batch(self, indices: Any) -> Batch:
            loaded.append(len(indices))
            return super().batch(indices)

    loaded: list[int] = []
    data = samples(20)
    counting = Counting(data.x, data.labels)
    with pe.Session(plain) as session:
        assert Trainer(session).evaluate(counting) == session.evaluate(data.x, data.labels)
        assert loaded == [8, 8, 4]
        np.testing.assert_array_equal(Trainer(session).predict(counting), session.predict(data.x))


# ---- ending --------------------------------------------------------------------------------------


def interrupting(at: int, error: type[BaseException] = KeyboardInterrupt) -> Callback:
    def tell(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == at:
            raise error

    return tell


def test_an_interrupt_ends_cleanly(plain: Program) -> None:
    data = samples(24)
    with pe.Session(plain) as session, pe.Session(plain) as other:
        trainer, told = Trainer(session, lr=0.05), Told()
        history = trainer.fit(data, 3, callbacks=[interrupting(5), told])
        assert history.stopped == "interrupt"
        assert [(row.epoch, row.step) for row in history.rows] == [(1, 3), (2, 5)]
        batches = [*Loader(data, BATCH).epoch(0), *Loader(data, BATCH).epoch(1)]
        for x, y in batches[:5]:
            other.step(x, y, lr=0.05)
        assert states_equal(session, other)
        assert told.of(Ended)[0].history == history
        assert not [t for t in threading.enumerate() if "loader" in t.name]


def test_an_interrupt_puts_the_best_weights_back(plain: Program) -> None:
    with pe.Session(plain) as session, pe.Session(plain) as other:
        history = Trainer(session, lr=0.05).fit(
            samples(24), 3, validation=samples(9), callbacks=[interrupting(5)]
        )
        Trainer(other, lr=0.05).fit(samples(24))
        assert states_equal(session, other)
        assert history.best == history.rows[0]
        assert history.rows[1].validation == {}


def test_an_interrupt_drops_what_was_accumulated() -> None:
    with pe.Session(program(accumulate=4)) as session, pe.Session(session.program) as other:
        Trainer(session).fit(samples(48), callbacks=[interrupting(2)])
        Trainer(session, lr=0.05).fit(samples(32))
        Trainer(other, lr=0.05).fit(samples(32))
        assert states_equal(session, other)


def test_a_loss_that_is_no_number_is_raised_and_the_best_weights_are_back(plain: Program) -> None:
    class Breaking(ArrayDataset):
        """Has no numbers any more from the second epoch on."""

        def batch(self, indices: Any) -> Batch:
            batches.append(indices)
            x, y = super().batch(indices)
            return Batch(x if len(batches) <= 3 else np.full_like(x, np.nan), y)

    data, batches = samples(24), list[Any]()
    with pe.Session(plain) as session, pe.Session(plain) as other:
        trainer = Trainer(session, lr=0.05)
        with pytest.raises(NonFiniteLossError):
            trainer.fit(Breaking(data.x, data.labels), 3, validation=samples(9))
        Trainer(other, lr=0.05).fit(data)
        assert states_equal(session, other)


def test_a_callback_s_error_is_the_caller_s(plain: Program) -> None:
    with pe.Session(plain) as session, pytest.raises(ZeroDivisionError):
        Trainer(session).fit(samples(24), callbacks=[interrupting(2, ZeroDivisionError)])
    assert not [t for t in threading.enumerate() if "loader" in t.name]


# ---- features ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def headed() -> Program:
    """Trains the head of a convolutional network; the rest is a frozen prefix."""
    graph = image_graph(seeded(ConvNet))
    compiled = pe.compile(graph, scheme=pe.UpdateScheme.head_only(graph), batch=4, target=ONE)
    assert compiled.signature.prefix
    return compiled


class Pictures(ArrayDataset):
    """Remembers which samples were loaded."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(1)
        x = rng.standard_normal((count, 3, 12, 12)).astype(np.float32)
        super().__init__(x, np.arange(count) % 5)
        self.loaded: list[int] = []

    def batch(self, indices: Any) -> Batch:
        self.loaded += list(map(int, indices))
        return super().batch(indices)


def test_samples_are_loaded_once_where_their_features_are_kept(headed: Program) -> None:
    data, states = Pictures(10), []
    for cache in (None, FeatureCache()):
        with pe.Session(headed, cache=cache) as session:
            Trainer(session, lr=0.05, seed=2).fit(data, 3, validation=data)
            states.append(session.state_dict())
            Trainer(session).predict(data)
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    without = 7 * 10
    assert len(data.loaded) == without + 10
    assert sorted(data.loaded[without:]) == list(range(10))


def test_augmented_samples_are_not_taken_from_the_cache(headed: Program) -> None:
    data, states = Pictures(10), []
    for cache in (None, FeatureCache()):
        with pe.Session(headed, cache=cache) as session:
            if cache is not None:
                Trainer(session).evaluate(data)
            Trainer(session, lr=0.05).fit(data, 2, augment=Augment(flip=True, noise=0.1))
            states.append(session.state_dict())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


# ---- what is told --------------------------------------------------------------------------------


def test_events(plain: Program) -> None:
    told = Told()
    with pe.Session(plain) as session:
        history = Trainer(session).fit(samples(16), 2, validation=samples(8), callbacks=[told])
    kinds = [Started, Stepped, Stepped, EpochEnded, Stepped, Stepped, EpochEnded, Ended]
    assert [type(event) for event in told] == kinds
    assert {(event.epochs, event.steps) for event in told} == {(2, 4)}
    assert [(e.epoch, e.step) for e in told.of(Stepped)] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert [event.row for event in told.of(EpochEnded)] == list(history.rows)


def test_history_as_json(plain: Program) -> None:
    with pe.Session(plain) as session:
        history = Trainer(session).fit(samples(16), validation=samples(8))
    document = json.loads(history.to_json())
    assert document["stopped"] == ""
    assert set(document["rows"][0]) == {"epoch", "step", "loss", "lr", "seconds", "validation"}
    assert document["best"] == document["rows"][0]


def test_plain_progress(plain: Program, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with pe.Session(plain) as session:
        progress = [plain_progress(out), plain_progress()]
        Trainer(session, lr=0.05).fit(samples(16), 2, validation=samples(9), callbacks=progress)
        Trainer(session).fit(samples(16), callbacks=[*progress, interrupting(1)])
    first, second, third = out.getvalue().splitlines()
    assert first.startswith("epoch 1/2  loss ") and first.endswith(" s  *")
    assert "  validation loss " in second and "  validation accuracy " in second
    assert "  lr 5.0e-02  " in second
    assert third == "stopped early: interrupt"
    assert out.getvalue() == capsys.readouterr().err


# ---- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "no schedule is called 'cosin'; there are constant, cosine, or"),
        ({"warmup": -1}, "warmup is a number of steps of at least 0, got -1"),
    ],
)
def test_settings(plain: Program, settings: dict[str, Any], message: str) -> None:
    with pe.Session(plain) as session, pytest.raises(InputError, match=message):
        Trainer(session, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        (
            {"patience": 2},
            "patience needs a number of epochs of at least 1, and validation samples",
        ),
        (
            {"patience": 0, "validation": samples(8)},
            "patience needs a number of epochs of at least 1, got 0",
        ),
        ({"metric": "f1"}, "the program has no metric 'f1'; it has accuracy, loss"),
        (
            {"validation": 7},
            "expected a Dataset, a tuple of samples and labels, or a path, got int",
        ),
    ],
)
def test_what_fit_refuses(plain: Program, settings: dict[str, Any], message: str) -> None:
    with pe.Session(plain) as session, pytest.raises(InputError, match=message):
        Trainer(session).fit(samples(8), **settings)


def test_a_path_is_a_data_set_or_says_how_to_become_one(plain: Program, tmp_path: Path) -> None:
    x, y = samples(8).x, np.arange(8) % 2
    np.savez(tmp_path / "all.npz", x=x, y=y)
    with pe.Session(plain) as session:
        assert Trainer(session).fit(tmp_path / "all.npz").rows[-1].step > 0
        with pytest.raises(InputError, match=r"folder of images; .* as_dataset\(path, size=...\)"):
            Trainer(session).fit(str(tmp_path))


def test_sets_that_number_their_classes_otherwise_are_refused(plain: Program) -> None:
    x = samples(8).x
    with pe.Session(plain) as session, pytest.raises(InputError, match="class 0 is 'a' in the tr"):
        Trainer(session).fit((x, ["a", "b"] * 4), validation=(x, ["b", "c"] * 4))


def test_a_regression_has_no_accuracy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 6)).astype(np.float32), rng.standard_normal((8, 3))
    data = ArrayDataset(x, y.astype(np.float32))
    with pe.Session(program(loss="mse")) as session:
        with pytest.raises(InputError, match="no metric 'accuracy'; it has loss"):
            Trainer(session).fit(data, validation=data, metric="accuracy")
        history = Trainer(session).fit(data, validation=data)
        assert list(history.rows[0].validation) == ["loss"]


def test_too_few_batches_to_change_a_weight() -> None:
    message = "the weights change after every 4 batches, and there are only 2; train for more"
    with pe.Session(program(accumulate=4)) as session, pytest.raises(InputError, match=message):
        Trainer(session).fit(samples(16))
