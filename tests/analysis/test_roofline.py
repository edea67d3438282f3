"""The roofline report: its arithmetic, and that it agrees with the program that it measures."""

import time

import pytest
from small_models import ConvNet, image_graph, images, seeded

import pockengine as pe
from pockengine.analysis.roofline import Peaks, Roofline, StepTime, Stopwatch, measure_peaks
from pockengine.compiler import Planned, plan_job
from pockengine.errors import InputError
from pockengine.job import Job
from pockengine.runtime.session import Session

PEAKS = Peaks(flops=100e9, bytes=10e9)


def step(operator: str, flops: int, nbytes: int, seconds: float, variant: str = "") -> StepTime:
    return StepTime("train", 0, "layer", operator, variant, (8,), flops, nbytes, seconds)


def planned(backend: str = "c", scheme: str = "full") -> Planned:
    target = pe.Target.host(backend=backend, threads=2)  # type: ignore[arg-type]
    graph = image_graph(seeded(ConvNet))
    chosen = getattr(pe.UpdateScheme, scheme)(graph)
    return plan_job(Job.of(graph, "cross_entropy", "sgd", chosen, 8, target))


def test_the_roof_is_the_lower_of_two() -> None:
    assert PEAKS.roof(100, 1) == 100e9  # much arithmetic a byte
    assert PEAKS.roof(1, 1) == 10e9
    assert PEAKS.roof(5, 0) == 100e9


@pytest.mark.parametrize(
    ("flops", "nbytes", "expected"), [(50 * 10**9, 1, 0.5), (0, 10**10, 1.0), (10**9, 10**9, 0.1)]
)
def test_share_of_the_roof(flops: int, nbytes: int, expected: float) -> None:
    assert step("Conv", flops, nbytes, 1.0).of_roof(PEAKS) == pytest.approx(expected)
    assert step("Conv", flops, nbytes, 0.0).of_roof(PEAKS) == 0.0


def test_achieved_rates() -> None:
    measured = step("Conv", 3 * 10**9, 2 * 10**9, 0.5)
    assert (measured.gflops, measured.gbytes) == (6.0, 4.0)


def test_operators_are_summed_by_variant_longest_first() -> None:
    steps = (
        step("A", 1, 2, 0.1),
        step("B", 1, 2, 0.3),
        step("A", 3, 4, 0.1),
        step("A", 5, 6, 0.4, "x"),
    )
    first, second, third = Roofline("train", PEAKS, steps).by_operator()
    assert (first.operator, first.variant, first.number) == ("A", "x", 1)
    assert second.operator == "B"
    assert (third.number, third.flops, third.bytes) == (2, 4, 6)
    assert third.seconds == pytest.approx(0.2)


def test_measured_peaks_are_those_of_a_machine() -> None:
    peaks = measure_peaks(pe.Target.host(threads=1), 0)
    assert 1e9 < peaks.flops < 1e12
    assert 1e8 < peaks.bytes < 1e12


def test_the_steps_add_up_to_the_call() -> None:
    job = planned()
    stopwatch = Stopwatch(job)
    with Session(stopwatch.program) as session:
        session.step(*images(8))
        stopwatch.reset()
        start = time.perf_counter()
        for _ in range(3):
            session.step(*images(8))
        seconds = (time.perf_counter() - start) / 3
    report = stopwatch.roofline("train", 3, PEAKS)
    schedule = job.plan.entries["train"].schedule
    assert [s.number for s in report.steps] == list(range(len(schedule.steps)))
    assert [s.variant for s in report.steps] == [s.variant for s in schedule.steps]
    assert 0 < report.seconds < seconds
    assert any(s.source and s.flops and s.bytes for s in report.steps)
    assert len(report.to_json()["steps"]) == len(report.steps)


def test_the_frozen_prefix_counts_with_all_its_runs() -> None:
    job = planned(scheme="head_only")
    stopwatch = Stopwatch(job)
    prefix = stopwatch.program.signature.prefix
    assert prefix is not None
    with Session(stopwatch.program) as session:
        session.step(*images(8))
    steps = stopwatch.roofline("train", 1, PEAKS).steps
    before = [s for s in steps if s.entry == "features"]
    convolutions = sum(s.flops for s in before if s.operator.startswith("Conv"))
    full = Stopwatch(planned()).roofline("predict", 1, PEAKS).steps
    expected = sum(s.flops for s in full if s.operator.startswith("Conv"))
    assert convolutions == pytest.approx(expected, rel=0.1)
    assert {s.entry for s in steps} == {"features", "train"}
    assert all(s.seconds > 0 for s in before)


def test_timed_code_computes_the_same() -> None:
    job = planned()
    with (
        Session(Stopwatch(job).program) as timed,
        Session(
            pe.compile(job.job.graph, optimizer="sgd", batch=8, target=job.job.target)
        ) as plain,
    ):
        assert [timed.step(*images(8)) for _ in range(3)] == [
            plain.step(*images(8)) for _ in range(3)
        ]


def test_only_native_code_is_measured() -> None:
    with pytest.raises(InputError, match="only the C back end measures its steps"):
        Stopwatch(planned("numpy"))
