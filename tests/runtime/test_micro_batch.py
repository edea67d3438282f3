"""Steps that compute their batch in parts: the same step, in less memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import CLASSES, ConvNet, image_graph, images, seeded

import pockengine as pe
from pockengine.errors import InputError, MemoryBudgetError, NonFiniteLossError
from pockengine.ir.op import Array
from pockengine.runtime.program import Program

BATCH, LR = 8, 0.05
ONE = pe.Target.host(threads=1)


def compiled(scheme: str = "full", **options: Any) -> Program:
    graph = image_graph(seeded(ConvNet))
    chosen = pe.UpdateScheme.full(graph) if scheme == "full" else pe.UpdateScheme.head_only(graph)
    options = {"target": ONE, "optimizer": pe.SGD(momentum=0.9), **options}
    return pe.compile(graph, scheme=chosen, batch=BATCH, **options)


def batches(count: int, samples: int = BATCH) -> list[tuple[Array, Array]]:
    return [images(samples, seed=i) for i in range(count)]


def trained(program: Program, given: list[tuple[Array, Array]], **more: Any) -> pe.Session:
    session = pe.Session(program)
    for x, y in given:
        session.step(x, y, lr=LR, **more)
    return session


def assert_close(a: pe.Session, b: pe.Session) -> None:
    left, right = a.state_dict(), b.state_dict()
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], 2e-5, 2e-6, err_msg=name)


@pytest.mark.parametrize("scheme", ["full", "head only"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_make_the_same_step(scheme: str, size: int) -> None:
    whole, parts = compiled(scheme), compiled(scheme, micro_batch=size)
    assert parts.signature.parts == BATCH // size
    assert_close(trained(whole, batches(3)), trained(parts, batches(3)))


def test_losses_weights_and_partial_batches() -> None:
    whole, parts = pe.Session(compiled()), pe.Session(compiled(micro_batch=2))
    for samples in (8, 5, 1):
        x, y = images(samples, seed=samples)
        weight = np.linspace(0.5, 2, samples, dtype=np.float32)
        wanted = whole.step(x, y, lr=LR, weight=weight)
        assert parts.step(x, y, lr=LR, weight=weight) == pytest.approx(wanted, rel=1e-5)
    assert_close(whole, parts)


def test_parts_whose_labels_are_ignored_count_nothing() -> None:
    whole, parts = pe.Session(compiled()), pe.Session(compiled(micro_batch=2))
    x, y = images(BATCH, seed=1)
    y[:5] = -100
    assert parts.step(x, y, lr=LR) == pytest.approx(whole.step(x, y, lr=LR), rel=1e-5)
    assert_close(whole, parts)


def test_accumulated_steps_in_parts() -> None:
    given = batches(4)
    whole = trained(compiled(accumulate=2), given)
    assert_close(whole, trained(compiled(accumulate=2, micro_batch=4), given))


def test_a_bad_part_undoes_the_parts_before_it() -> None:
    good = batches(2)
    session = pe.Session(compiled(micro_batch=2))
    x, y = images(BATCH, seed=7)
    x[5] = np.nan
    with pytest.raises(NonFiniteLossError, match="as they were before this step"):
        session.step(x, y, lr=LR)
    for images_, labels in good:
        session.step(images_, labels, lr=LR)
    assert_close(trained(compiled(micro_batch=2), good), session)


def test_a_bad_label_of_a_late_part_is_refused_before_anything_runs() -> None:
    session = pe.Session(compiled(micro_batch=2))
    before = session.state_dict()
    x, y = images(BATCH, seed=7)
    y[7] = CLASSES
    with pytest.raises(InputError, match=f"got {CLASSES} at position 7"):
        session.step(x, y, lr=LR)
    assert all(np.array_equal(before[n], a) for n, a in session.state_dict().items())
    with pytest.raises(InputError, match=f"takes 1 to {BATCH} samples, got {BATCH + 1}"):
        session.step(*images(BATCH + 1, seed=1), lr=LR)


def test_a_file_keeps_the_parts(tmp_path: Path) -> None:
    program = compiled(micro_batch=2)
    program.save(tmp_path / "a.pock")
    loaded = pe.Session.load(tmp_path / "a.pock")
    assert loaded.signature == program.signature
    x, y = images(BATCH, seed=3)
    assert loaded.step(x, y, lr=LR) == pe.Session(program).step(x, y, lr=LR)


def test_a_memory_budget_chooses_the_parts() -> None:
    whole, parts = compiled(), compiled(micro_batch=2)
    assert parts.peak_bytes < whole.peak_bytes
    target = pe.Target.host(threads=1, memory_budget=whole.peak_bytes - 1)
    within = compiled(target=target)
    assert within.signature.parts > 1
    assert within.peak_bytes < whole.peak_bytes
    least = min(compiled(micro_batch=m).peak_bytes for m in (1, 2, 4))
    target = pe.Target.host(threads=1, memory_budget=least - 1)
    with pytest.raises(MemoryBudgetError, match=rf"least that would do.* is {least:,}"):
        compiled(target=target)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="must divide the batch of 8, got 3"):
        compiled(micro_batch=3)
    training = image_graph(seeded(ConvNet).train())
    with pytest.raises(InputError, match=r"mixes the samples of a batch.*eval mode"):
        pe.compile(training, batch=BATCH, micro_batch=2, target=ONE)
