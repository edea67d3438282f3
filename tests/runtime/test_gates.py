"""Sessions of gated programs: masks in, the channels that are trained out; and starting anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import ConvNet, image_graph, images, seeded

import pockengine as pe
from pockengine.compiler import build, plan_job
from pockengine.errors import InputError
from pockengine.ir.op import Array
from pockengine.job import Job
from pockengine.runtime.program import Program

LR, BATCH = 0.05, 4
ONE = pe.Target.host(threads=1)


def compiled(
    *, training: bool = False, gated: bool = True, shares: Any = None, **settings: Any
) -> Program:
    graph = image_graph(seeded(ConvNet, training=training))
    scheme = pe.UpdateScheme(shares) if shares else None
    settings = {"optimizer": pe.SGD(momentum=0.9, weight_decay=0.1), "target": ONE} | settings
    job = Job.of(graph, "cross_entropy", scheme=scheme, batch=BATCH, gated=gated, **settings)
    return build(plan_job(job))


def steps(session: pe.Session, count: int = 3, samples: int = BATCH) -> list[float]:
    return [session.step(*images(samples, seed=i), lr=LR) for i in range(count)]


def changed(session: pe.Session, name: str, axis: int) -> list[int]:
    """The channels that training has changed."""
    before = image_graph(seeded(ConvNet)).data[name]
    others = tuple(i for i in range(before.ndim) if i != axis)
    return np.flatnonzero((session.state_dict()[name] != before).any(others)).tolist()


def assert_close(a: dict[str, Array], b: dict[str, Array]) -> None:
    for name in a:
        np.testing.assert_allclose(a[name], b[name], 1e-6, 1e-8, err_msg=name)


@pytest.fixture(scope="module")
def gated() -> Program:
    return compiled()


# ---- masks ---------------------------------------------------------------------------------------


def test_only_open_channels_change(gated: Program) -> None:
    head, stem = np.arange(8) % 3 == 1, np.array([False, True, False])
    with pe.Session(gated) as session:
        session.set_gates({"head.weight": head, "stem.weight": stem, "depthwise.bias": True})
        steps(session)
        assert changed(session, "head.weight", 1) == [1, 4, 7]
        assert changed(session, "stem.weight", 1) == [1]
        assert len(changed(session, "depthwise.bias", 0)) == 8
        for name in ("head.bias", "depthwise.weight", "norm.weight", "norm.bias"):
            assert changed(session, name, 0) == []


def test_a_depthwise_weight_has_a_gate_for_each_channel(gated: Program) -> None:
    with pe.Session(gated) as session:
        session.set_gates({"depthwise.weight": np.arange(8) < 3})
        steps(session)
        assert changed(session, "depthwise.weight", 0) == [0, 1, 2]


def test_one_bool_opens_or_closes_all_channels(gated: Program) -> None:
    with pe.Session(gated) as session:
        session.set_gates({"head.weight": True, "stem.weight": np.False_})
        steps(session)
        assert changed(session, "head.weight", 1) == list(range(8))
        assert changed(session, "stem.weight", 1) == []


def test_what_is_not_named_is_closed_at_every_call(gated: Program) -> None:
    with pe.Session(gated) as session:
        session.set_gates({"head.weight": True})
        session.set_gates({"head.bias": True})
        steps(session)
        assert changed(session, "head.weight", 1) == []
        assert changed(session, "head.bias", 0) == list(range(5))


def test_masks_of_a_scheme_that_trains_some_channels() -> None:
    program = compiled(shares={"head.weight": (1, 4, 6), "head.bias": True})
    with pe.Session(program) as session:
        session.set_gates({"head.weight": np.arange(8) == 4})
        steps(session)
        assert changed(session, "head.weight", 1) == [4]
        session.set_gates({"head.weight": True})
        steps(session)
        assert changed(session, "head.weight", 1) == [1, 4, 6]
        expected = "only the channels 1, 4, 6 of 'head.weight' can be trained"
        with pytest.raises(InputError, match=expected):
            session.set_gates({"head.weight": np.arange(8) < 5})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"head.weigth": True}, "'head.weigth' has no gate; there are gates of stem.weight, "),
        ({"unused.weight": True}, "'unused.weight' has no gate"),
        (
            {"head.weight": np.ones(7, np.bool_)},
            r"the gate of 'head.weight' expects a bool or 8 bools, got bool\[7\]",
        ),
        (
            {"head.weight": np.ones(8, np.float32)},
            r"the gate of 'head.weight' expects a bool or 8 bools, got float32\[8\]",
        ),
        (
            {"head.bias": np.ones(5, np.bool_)},
            r"the gate of 'head.bias' expects a bool, got bool\[5\]",
        ),
        ({"head.bias": 1}, r"the gate of 'head.bias' expects a bool, got int64\[\]"),
    ],
)
def test_masks_that_do_not_fit_change_nothing(
    gated: Program, masks: dict[str, Any], message: str
) -> None:
    with pe.Session(gated) as session:
        session.set_gates({"head.bias": True})
        with pytest.raises(InputError, match=message):
            session.set_gates({"stem.weight": True} | masks)
        steps(session)
        assert changed(session, "stem.weight", 0) == []
        assert changed(session, "head.bias", 0) == list(range(5))


def test_a_program_without_gates_refuses_them() -> None:
    message = "compiled without gates: it trains all of its scheme"
    with pe.Session(compiled(gated=False)) as session, pytest.raises(InputError, match=message):
        session.set_gates({"head.weight": True})


# ---- starting anew -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "lion"])
def test_after_a_reset_training_is_repeated_to_the_bit(optimizer: str) -> None:
    with pe.Session(compiled(training=True, optimizer=optimizer)) as session:
        before = session.state_dict()
        losses, after = steps(session), session.state_dict()
        assert not np.array_equal(before["norm.running_mean"], after["norm.running_mean"])
        session.set_gates({"head.weight": True})
        session.reset()
        for name, array in session.state_dict().items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)
        assert steps(session) == losses
        for name, array in session.state_dict().items():
            np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_reset_drops_what_was_accumulated() -> None:
    with pe.Session(compiled(accumulate=2)) as session:
        first = steps(session, 2)
        session.step(*images(BATCH, seed=9), lr=LR)
        session.reset()
        assert steps(session, 2) == first
        fresh = pe.Session(session.program)
        steps(fresh, 2)
        assert_close(session.state_dict(), fresh.state_dict())


def test_a_program_without_gates_is_reset_too() -> None:
    with pe.Session(compiled(gated=False)) as session:
        losses = steps(session)
        session.reset()
        assert steps(session) == losses


# ---- together with everything else ---------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batch": 2},
        {"accumulate": 2},
        {"target": pe.Target.host(threads=2)},
    ],
)
def test_gated_equals_compiled(settings: dict[str, Any]) -> None:
    shares = {"head.weight": (0, 3), "head.bias": 1.0, "norm.bias": 1.0}
    masks = {"head.weight": np.isin(np.arange(8), (0, 3)), "head.bias": True, "norm.bias": True}
    clip = pe.ClipNorm(0.3)
    states = []
    for gated in (True, False):
        settings = {"clip": clip} | settings
        program = compiled(gated=gated, shares=None if gated else shares, **settings)
        with pe.Session(program) as session:
            if gated:
                session.set_gates(masks)
            steps(session, 4)
            states.append(session.state_dict())
    assert_close(*states)


def test_running_statistics_are_as_without_gates() -> None:
    states = []
    for gated in (True, False):
        shares = None if gated else {"head.weight": 1.0}
        with pe.Session(compiled(training=True, gated=gated, shares=shares)) as session:
            if gated:
                session.set_gates({"head.weight": True})
            steps(session)
            states.append(session.state_dict())
    assert_close(*states)
    assert states[0]["norm.num_batches_tracked"] == 3


def test_a_file_keeps_gates(gated: Program, tmp_path: Path) -> None:
    gated.save(tmp_path / "gated.pock")
    with pe.Session.load(tmp_path / "gated.pock") as session:
        assert steps(session) == steps(pe.Session(gated))
        session.set_gates({"head.weight": np.arange(8) == 2})
        session.save(tmp_path / "later.pock")
        later = pe.Session.load(tmp_path / "later.pock")
        kept = later.state_dict()["head.weight"]
        steps(later)
        after = later.state_dict()["head.weight"]
        assert np.flatnonzero((after != kept).any(0)).tolist() == [2]
        later.reset()
        steps(later)
        assert (later.state_dict()["head.weight"] != kept).any(0).all()


def test_gates_are_no_tensors_of_the_model(gated: Program) -> None:
    with pe.Session(gated) as session:
        assert not [name for name in session.state_dict() if "gate" in name]
        with pytest.raises(InputError, match=r"the program has no tensor 'gate:head\.weight'"):
            session.load_state_dict({"gate:head.weight": np.ones(8, np.bool_)})


def test_the_plan_counts_the_gates() -> None:
    gates = [leaf for leaf in compiled().signature.leaves.values() if leaf.kind == "gate"]
    sizes = {leaf.name: leaf.nbytes for leaf in gates}
    assert sizes == {
        "gate:stem.weight": 3,
        "gate:depthwise.weight": 8,
        "gate:head.weight": 8,
        **{f"gate:{n}": 1 for n in ("norm.weight", "norm.bias", "depthwise.bias", "head.bias")},
    }
    more = compiled().peak_bytes - compiled(gated=False).peak_bytes
    assert 64 * len(gates) <= more
