"""What a session refuses, in words, and that a refused call changes nothing."""

import numpy as np
import pytest

import pockengine as pe
from pockengine.demo.personalise import HERE
from pockengine.errors import InputError, NonFiniteLossError
from pockengine.program import CompiledProgram

BATCH = 4


@pytest.fixture(scope="module")
def program() -> CompiledProgram:
    graph = pe.import_onnx(HERE / "base_network.onnx")
    target = pe.Target.host(threads=2)
    scheme = pe.UpdateScheme.head_only(graph)
    return pe.compile(graph, scheme=scheme, batch=BATCH, target=target)


def windows(count: int = BATCH) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6, 128)).astype(np.float32)


def weights(session: pe.Session) -> bytes:
    return b"".join(array.tobytes() for array in session.state_dict().values())


def test_more_threads_than_planned_are_refused(program: CompiledProgram) -> None:
    with pytest.raises(InputError, match=r"compiled for 2 threads, got threads=3; compile it"):
        pe.Session(program, threads=3)
    with pytest.raises(InputError, match=r"compiled for 2 threads, got threads=0"):
        pe.Session(program, threads=0)


def test_fewer_threads_compute_the_same(program: CompiledProgram) -> None:
    losses = []
    for threads in (1, 2):
        with pe.Session(program, threads=threads) as session:
            losses.append([session.step(windows(), np.arange(BATCH)) for _ in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_the_same_bits_every_time(program: CompiledProgram) -> None:
    runs = []
    for _ in range(2):
        with pe.Session(program) as session:
            for _ in range(3):
                session.step(windows(), np.arange(BATCH), lr=0.1)
            runs.append(weights(session))
    assert runs[0] == runs[1]


def test_a_partial_batch_is_exact(program: CompiledProgram) -> None:
    """Three samples train as three of four do when the fourth has weight 0."""
    x, y = windows(), np.arange(BATCH)
    with pe.Session(program) as part, pe.Session(program) as whole:
        loss = part.step(x[:3], y[:3], lr=0.1)
        assert whole.step(x, y, lr=0.1, weight=[1, 1, 1, 0]) == pytest.approx(loss, rel=1e-6)
        for name, array in part.state_dict().items():
            np.testing.assert_allclose(array, whole.state_dict()[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (windows()[:, :5], np.arange(BATCH), r"expects \[4, 6, 128\] or fewer samples, got shape"),
        (windows(BATCH + 1), np.arange(BATCH + 1), r"expects \[4, 6, 128\] or fewer samples"),
        (windows().astype(complex), np.arange(BATCH), r"expects float32, got complex128"),
        (windows(), np.arange(3), r"different numbers of samples: \[3, 4\]"),
        (windows(), np.full(BATCH, 7), r"labels must lie in 0\.\.6, got 7 at position \(0,\)"),
        (windows(), np.ones(BATCH), r"'target' expects int64, got float64; convert it"),
        (windows(), None, r"train needs labels or targets as its second argument"),
    ],
)
def test_what_does_not_fit_is_refused(
    program: CompiledProgram, x: np.ndarray, y: np.ndarray | None, words: str
) -> None:
    with pe.Session(program) as session:
        before = weights(session)
        with pytest.raises(InputError, match=words):
            session.step(x, y)
        assert weights(session) == before


def test_a_loss_that_is_no_number_changes_nothing(program: CompiledProgram) -> None:
    x = windows()
    x[1, 2, 3] = np.nan
    with pe.Session(program) as session:
        before = weights(session)
        with pytest.raises(NonFiniteLossError, match=r"the weights are as they were before"):
            session.step(x, np.arange(BATCH))
        assert weights(session) == before
        assert np.isfinite(session.step(windows(), np.arange(BATCH)))
