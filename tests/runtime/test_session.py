"""Sessions: what goes in and comes out, beside PyTorch on the very same samples."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import (
    CLASSES,
    ConvNet,
    Judge,
    Noisy,
    Tagger,
    image_graph,
    image_program,
    images,
    seeded,
    sentences,
    tagger_graph,
)
from torch import nn
from torch.nn import functional as F

import pockengine as pe
from pockengine.errors import ArtifactError, InputError
from pockengine.ir.op import Array
from pockengine.runtime.program import Program

LR = 0.05
ONE = pe.Target.host(threads=1)
Judged = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def torch_steps(
    model: nn.Module, batches: list[tuple[Any, Array]], loss: Judged = F.cross_entropy
) -> list[float]:
    """Steps of SGD with momentum on these inputs and labels."""
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
    losses = []
    for inputs, labels in batches:
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        value = loss(model(*map(torch.from_numpy, inputs)), torch.from_numpy(labels))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def assert_equal_states(got: dict[str, Array], model: nn.Module) -> None:
    wanted = model.state_dict()
    assert set(got) == set(wanted)
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name].numpy(), 2e-4, 2e-6, err_msg=name)


def same_bits(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


@pytest.fixture(scope="module")
def still() -> Program:
    """Batch norm of frozen statistics."""
    return image_program(seeded(ConvNet))


@pytest.fixture(scope="module")
def moving() -> Program:
    """Batch norm of batch statistics."""
    return image_program(seeded(ConvNet, training=True))


@pytest.fixture(scope="module")
def tagger() -> Program:
    graph = tagger_graph(seeded(Tagger))
    return pe.compile(graph, optimizer=pe.SGD(momentum=0.9), batch=4, target=ONE)


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_partial_batch_is_the_step_of_its_samples(
    training: bool, still: Program, moving: Program
) -> None:
    model = seeded(ConvNet, training=training)
    batches = [images(4, 1), images(3, 2), images(2, 3), images(4, 4)]
    with pe.Session(moving if training else still) as session:
        losses = [session.step(x, y, LR) for x, y in batches]
        np.testing.assert_allclose(losses, torch_steps(model, batches), 1e-5)
        assert_equal_states(session.state_dict(), model)


SMOOTH = pe.CrossEntropy(0.1, ignore_index=2, class_weights=(1.0, 2.0, 0.5, 1.5, 3.0))


def test_a_partial_batch_with_smoothing_weights_and_ignored_labels() -> None:
    model, weights = seeded(ConvNet), torch.tensor(SMOOTH.class_weights)

    def judge(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores, labels, weights, ignore_index=2, label_smoothing=0.1)

    batches = [(images(n, n)[0], np.array([2, 0, 1, 4, 3, 2])[:n]) for n in (3, 6, 5)]
    with pe.Session(image_program(model, batch=6, loss=SMOOTH)) as session:
        losses = [session.step(x, y, LR) for x, y in batches]
        np.testing.assert_allclose(losses, torch_steps(model, batches, judge), 1e-5)
        assert_equal_states(session.state_dict(), model)


def test_weights_of_samples(still: Program) -> None:
    (x, y), weight = images(3), np.array([0.5, 0.0, 2.0], np.float32)

    def judge(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(scores, labels, reduction="none")
        return (each * torch.from_numpy(weight)).sum() / 2.5

    model = seeded(ConvNet)
    with pe.Session(still) as session:
        before = session.evaluate(x, y, weight)["loss"]
        got = session.step(x, y, LR, weight)
        assert got == pytest.approx(before, 1e-6)
        assert got == pytest.approx(torch_steps(model, [(x, y)], judge)[0], 1e-5)
        assert_equal_states(session.state_dict(), model)


def test_evaluate_is_the_mean_over_all_samples(still: Program) -> None:
    x, y = images(11)
    with torch.no_grad():
        scores = seeded(ConvNet)(torch.from_numpy(x))
    with pe.Session(still) as session:
        found = session.evaluate(x, y)
        wanted = F.cross_entropy(scores, torch.from_numpy(y)).item()
        assert found["loss"] == pytest.approx(wanted, 1e-5)
        assert found["accuracy"] == pytest.approx((scores.argmax(1).numpy() == y).mean())
        assert session.evaluate(x, y, np.zeros(11)) == {"loss": 0.0, "accuracy": 0.0}


def test_evaluating_and_predicting_change_nothing(moving: Program) -> None:
    with pe.Session(moving) as session:
        session.step(*images(4), LR)
        before = session.state_dict()
        session.evaluate(*images(9))
        session.predict(images(9)[0])
        assert same_bits(session.state_dict(), before)


def test_predictions_of_any_number_of_samples(moving: Program) -> None:
    x, _ = images(10)
    with torch.no_grad():
        wanted = seeded(ConvNet)(torch.from_numpy(x)).numpy()
    with pe.Session(moving) as session:
        np.testing.assert_allclose(session.predict(x), wanted, 1e-4, 1e-5)
        np.testing.assert_allclose(session.predict(x[:1]), wanted[:1], 1e-4, 1e-5)


class PerToken(nn.Module):
    """Two rows of scores for each sample, and a second output of one row each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, CLASSES)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.layer(x)
        return {"logits": scores.reshape(-1, CLASSES), "mean": scores.mean(1)}


def test_outputs_and_labels_with_several_rows_a_sample() -> None:
    model = seeded(PerToken)
    program = pe.compile(pe.import_torch(model, torch.zeros(2, 2, 3)), batch=4, target=ONE)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2, 3)).astype(np.float32), rng.integers(0, CLASSES, 14)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x))
    with pe.Session(program) as session:
        outputs = session.predict(x)
        assert outputs["logits"].shape == (14, CLASSES) and outputs["mean"].shape == (7, CLASSES)
        for name, array in outputs.items():
            np.testing.assert_allclose(array, wanted[name].numpy(), 1e-5, 1e-6)
        loss = F.cross_entropy(wanted["logits"], torch.from_numpy(y)).item()
        assert session.evaluate(x, y)["loss"] == pytest.approx(loss, 1e-5)
        with pytest.raises(InputError, match=r"'target' expects shape \[2 \* samples\], got \[7\]"):
            session.evaluate(x, y[:7])


def test_several_inputs_by_order_or_by_name(tagger: Program) -> None:
    model = seeded(Tagger)
    data = [sentences(4, 1), sentences(3, 2)]
    wanted = torch_steps(model, [((ids, mask), y) for ids, mask, y in data])
    (ids, mask, y), (ids2, mask2, y2) = data
    with pe.Session(tagger) as session:
        first = session.step((ids, mask), y, LR)
        second = session.step({"mask": mask2, "ids": ids2.astype(np.int32)}, y2, LR)
        np.testing.assert_allclose([first, second], wanted, 1e-5)
        assert_equal_states(session.state_dict(), model)
        assert session.predict([ids, mask]).shape == (4, 30)


def test_a_model_that_computes_its_own_loss() -> None:
    model = seeded(Judge)
    graph = pe.import_torch(model, (torch.zeros(2, 4), torch.zeros(2)))
    x, y = (np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((8, 4), 8))
    wanted = torch_steps(model, [((x[:4], y[:4]), y[:4])], lambda loss, _: loss)[0]
    program = pe.compile(
        graph, loss="output", optimizer=pe.SGD(momentum=0.9), batch=4, target=ONE, accumulate=1
    )
    with pe.Session(program) as session:
        assert session.predict((x, y)).shape == (2,)  # one for each batch
        halves = [session.evaluate((a, b))["loss"] for a, b in ((x[:4], y[:4]), (x[4:], y[4:]))]
        assert session.evaluate((x, y))["loss"] == pytest.approx(sum(halves) / 2, 1e-6)
        assert session.step((x[:4], y[:4]), lr=LR) == pytest.approx(wanted, 1e-5)
        assert_equal_states(session.state_dict(), model)
        full = "every batch must be full: expected 4 samples, got 3"
        for call in (session.step, session.evaluate):
            with pytest.raises(InputError, match=full):
                call((x[:3], y[:3]))
        with pytest.raises(InputError, match=f"output .* has no row for each sample, so {full}"):
            session.predict((x[:3], y[:3]))
        with pytest.raises(InputError, match="takes no labels beside its inputs"):
            session.step((x[:4], y[:4]), y[:4])
        with pytest.raises(InputError, match="takes no weights of samples"):
            session.step((x[:4], y[:4]), weight=np.ones(4))


@pytest.mark.parametrize("training", [False, True])
def test_accumulated_batches_are_one_step(training: bool) -> None:
    model = seeded(ConvNet, training=training)
    program = image_program(model, accumulate=3)
    parts = [images(4, 1), images(4, 2), images(2, 3)]
    scored, labels = [], []
    for x, y in parts:
        scored.append(model(torch.from_numpy(x)))
        labels.append(torch.from_numpy(y))
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
    F.cross_entropy(torch.cat(scored), torch.cat(labels)).backward()
    with pe.Session(program) as session:
        before = session.state_dict()
        session.step(*parts[0], LR)
        session.step(*parts[1], LR)
        weights = [n for n, _ in model.named_parameters()]
        now = session.state_dict()
        assert all(np.array_equal(now[n], before[n]) for n in weights)
        with pytest.raises(InputError, match="2 of 3 batches of a step are in; save after the st"):
            session.save("never.pock")
        session.step(*parts[2], LR)
        optimizer.step()
        assert_equal_states(session.state_dict(), model)


# ---- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_keys_are_those_of_the_source(training: bool) -> None:
    model = seeded(ConvNet, training=training)
    graph = image_graph(model)
    program = pe.compile(graph, scheme=pe.UpdateScheme.head_only(graph), batch=4, target=ONE)
    with pe.Session(program) as session:
        session.step(*images(4), LR)
        state = session.state_dict()
        twin = ConvNet()
        twin.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()}, strict=True)
        assert state["norm.num_batches_tracked"] == (1 if training else 0)
        assert np.array_equal(state["unused.weight"], model.unused.weight.detach())
        with torch.no_grad():
            wanted = twin.eval()(torch.from_numpy(images(4)[0])).numpy()
        np.testing.assert_allclose(session.predict(images(4)[0]), wanted, 1e-4, 1e-5)


def test_tied_tensors_and_buffers_come_back_under_each_name(tagger: Program) -> None:
    ids, mask, y = sentences(4)
    with pe.Session(tagger) as session:
        session.step((ids, mask), y, LR)
        state = session.state_dict()
    assert np.array_equal(state["table.weight"], state["out.weight"])
    assert np.array_equal(state["position_ids"], np.arange(6)[None])
    twin = seeded(Tagger)
    twin.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()}, strict=True)


def test_a_state_goes_in_and_comes_out(moving: Program) -> None:
    with pe.Session(moving) as one, pe.Session(moving) as other:
        one.step(*images(4), LR)
        state = one.state_dict()
        other.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()})
        assert same_bits(other.state_dict(), state)
        assert other.evaluate(*images(6)) == one.evaluate(*images(6))
        other.load_state_dict({"head.bias": np.zeros(CLASSES)})  # the rest stays
        assert not other.state_dict()["head.bias"].any()
        assert same_bits({**other.state_dict(), "head.bias": state["head.bias"]}, state)


def test_a_state_that_does_not_fit_changes_nothing(tagger: Program, still: Program) -> None:
    graph = image_graph(seeded(ConvNet))
    head = pe.compile(graph, scheme=pe.UpdateScheme.head_only(graph), batch=4, target=ONE)

    def refused(program: Program, change: dict[str, Array], message: str) -> None:
        with pe.Session(program) as session:
            before = session.state_dict()
            with pytest.raises(InputError, match=message):
                session.load_state_dict({n: a + 1 for n, a in before.items()} | change)
            assert same_bits(session.state_dict(), before)

    zeros = np.zeros(CLASSES, np.float32)
    refused(still, {"nose.bias": zeros}, "the program has no tensor 'nose.bias'")
    with pe.Session(still) as session:
        before = session.state_dict()
        for array, came in ((zeros[:3], r"float32\[3\]"), (zeros.astype(int), r"int64\[5\]")):
            with pytest.raises(InputError, match=rf"'head.bias' expects float32\[5\], got {came}"):
                session.load_state_dict(
                    {"head.weight": before["head.weight"] + 1, "head.bias": array}
                )
        assert same_bits(session.state_dict(), before)
    refused(head, {}, "is frozen, and other values in the program were computed from it")
    tied = np.zeros((30, 8), np.float32)
    refused(tagger, {"out.weight": tied}, "'out.weight' is tied to 'table.weight', but the two")


def test_a_tied_tensor_goes_in_under_either_name(tagger: Program) -> None:
    with pe.Session(tagger) as session:
        session.load_state_dict({"out.weight": np.ones((30, 8))})
        assert (session.state_dict()["table.weight"] == 1).all()


# ---- sessions ------------------------------------------------------------------------------------


def test_sessions_of_one_program_are_apart(still: Program) -> None:
    with pe.Session(still) as one, pe.Session(still) as other:
        before = other.state_dict()
        first = [one.step(*images(4), LR) for _ in range(3)]
        assert same_bits(other.state_dict(), before)
        assert [other.step(*images(4), LR) for _ in range(3)] == first


def test_changing_the_model_later_does_not_reach_the_program() -> None:
    model = seeded(ConvNet)
    program = image_program(model)
    with torch.no_grad():
        model.head.weight.zero_()
        model.unused.weight.zero_()
    with pe.Session(program) as session:
        assert session.state_dict()["head.weight"].any()
        assert session.state_dict()["unused.weight"].any()


def test_closing(still: Program) -> None:
    session = pe.Session(still)
    before = session.state_dict()
    session.close()
    session.close()
    assert same_bits(session.state_dict(), before)
    for call in (session.step, session.evaluate):
        with pytest.raises(InputError, match="the session was closed; make a new one from its pr"):
            call(*images(4))
    with pytest.raises(InputError, match="the session was closed"):
        session.predict(images(4)[0])


def test_threads_that_were_not_planned(still: Program) -> None:
    for threads in (0, 2):
        with pytest.raises(InputError, match=f"planned for 1 to 1 threads, got threads={threads}"):
            pe.Session(still, threads=threads)


def test_fewer_threads_than_planned_give_the_same_to_rounding() -> None:
    program = image_program(seeded(ConvNet), target=pe.Target.host(threads=4))
    with pe.Session(program) as four, pe.Session(program, threads=1) as one:
        pairs = [(four.step(*images(4), LR), one.step(*images(4), LR)) for _ in range(5)]
    np.testing.assert_allclose(*zip(*pairs, strict=True), 1e-5)


def test_calls_from_two_threads_wait_for_each_other(still: Program) -> None:
    with pe.Session(still) as session, pe.Session(still) as alone:
        work = [threading.Thread(target=session.step, args=(*images(4), LR)) for _ in range(8)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        for _ in range(8):
            alone.step(*images(4), LR)
        assert same_bits(session.state_dict(), alone.state_dict())


def test_an_interrupt_during_a_step_counts_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises it when the native call, which runs to its end, has returned."""
    program = image_program(seeded(ConvNet), accumulate=2)
    with pe.Session(program) as session, pe.Session(program) as alone:
        run = session._executable.run

        def interrupted(entry: str, arena: Array) -> int:
            run(entry, arena)
            raise KeyboardInterrupt

        monkeypatch.setattr(session._executable, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.step(*images(4, 1), LR)
        monkeypatch.undo()
        session.step(*images(4, 2), LR)
        for seed in (1, 2):
            alone.step(*images(4, seed), LR)
        assert same_bits(session.state_dict(), alone.state_dict())


# ---- files ---------------------------------------------------------------------------------------


def test_a_saved_session_goes_on_where_it_was(tmp_path: Path) -> None:
    model = seeded(Noisy, training=True)
    graph = pe.import_torch(model, torch.zeros(2, 64))
    program = pe.compile(graph, optimizer="adam", batch=4, target=ONE)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 64)).astype(np.float32), rng.integers(0, CLASSES, 4)
    path = tmp_path / "tuned.pock"
    with pe.Session(program) as session:
        for _ in range(3):
            session.step(x, y)
        session.save(path)
        with pe.Session.load(path) as loaded:
            assert same_bits(loaded.state_dict(), session.state_dict())
            assert [loaded.step(x, y) for _ in range(3)] == [session.step(x, y) for _ in range(3)]
            loaded.save(path)  # over the file that it came from
            with pe.Session.load(path) as again:
                assert [again.step(x, y), again.evaluate(x, y)] == [
                    session.step(x, y),
                    session.evaluate(x, y),
                ]
            assert loaded.step(x, y) > 0
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.pock"]


def test_frozen_weights_in_panels_come_back_as_they_went_in(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
    model.append(nn.Linear(40, CLASSES))
    graph = pe.import_torch(model, (torch.randn(4, 6),))
    scheme = pe.UpdateScheme.select(graph, {"0.bias": 1.0, "4.bias": 1.0})
    program = pe.compile(graph, scheme=scheme, batch=4, target=ONE)
    packed = [leaf.name for leaf in program.signature.leaves.values() if leaf.unpacked]
    assert {"0.weight", "2.weight"} <= set(packed)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 6), np.float32), rng.integers(0, CLASSES, 4)
    with pe.Session(program) as session:
        losses = [session.step(x, y, LR) for _ in range(3)]
        session.save(tmp_path / "model.pock")
        state = session.state_dict()
        session.load_state_dict(state)
    with pe.Session.load(tmp_path / "model.pock") as again:
        assert same_bits(again.state_dict(), state)
    for name, array in model.state_dict().items():
        if name not in ("0.bias", "4.bias"):
            assert state[name].tobytes() == array.numpy().tobytes()
    optimizer = torch.optim.SGD([model[0].bias, model[4].bias], LR)
    for loss in losses:
        value = F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        assert abs(value.item() - loss) < 1e-5
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def test_a_file_holds_tied_names_originals_and_scheme(tagger: Program, tmp_path: Path) -> None:
    with pe.Session(tagger) as session:
        session.save(tmp_path / "tagger.pock")
        with pe.Session.load(tmp_path / "tagger.pock") as loaded:
            assert loaded.signature == session.signature
            assert same_bits(loaded.state_dict(), session.state_dict())


def test_a_numpy_program_runs_but_is_not_saved(tmp_path: Path) -> None:
    model = seeded(ConvNet, training=True)
    program = image_program(model, target=pe.Target.host(backend="numpy"))
    batches = [images(4, 1), images(3, 2)]
    with pe.Session(program) as session:
        losses = [session.step(x, y, LR) for x, y in batches]
        np.testing.assert_allclose(losses, torch_steps(model, batches), 1e-5)
        with pytest.raises(ArtifactError, match="'numpy' back end has no native code to keep; com"):
            session.save(tmp_path / "none.pock")
    assert not list(tmp_path.iterdir())
