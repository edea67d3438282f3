"""Programs timed in turns with a probe, on the machine that runs the tests."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from zoo import ZOO

from pockengine import SGD, Target, UpdateScheme, import_torch
from pockengine.analysis import calibrate as timed
from pockengine.analysis.calibrate import TimedProgram, Turn, as_run, calibrate, in_turns
from pockengine.analysis.timing import calibration_schemes, from_runs, runs_of, work_of
from pockengine.compiler import plan_job
from pockengine.errors import InputError
from pockengine.job import Job


@pytest.fixture(scope="module")
def job() -> Job:
    entry = ZOO["mlp"]
    graph = import_torch(entry.model(), entry.batch(2, 0)[0])
    scheme = UpdateScheme.head_only(graph)
    return Job.of(graph, "cross_entropy", SGD(), scheme, 4, Target.host(threads=1))


@pytest.fixture(scope="module")
def program(job: Job) -> Iterator[TimedProgram]:
    with TimedProgram(job) as program:
        yield program


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARM_SECONDS", "SECONDS", "TURN_SECONDS"):
        monkeypatch.setattr(timed, name, 1e-3)


def test_a_machine_that_slows_down_changes_nothing(program: TimedProgram) -> None:
    _, steps = program.turn()
    steady = [Turn(1.0, 2.0, steps)] * 3
    slower = [
        Turn(k, 2.0 * k, {name: k * taken for name, taken in steps.items()}) for k in (1.0, 1.7, 2)
    ]
    run, other = as_run(program, steady, 0.5), as_run(program, slower, 0.5)
    assert run.call == pytest.approx(other.call) == 1.0
    for step, same in zip(run.steps["train"], other.steps["train"], strict=True):
        assert step.seconds == pytest.approx(same.seconds)


def test_a_call_takes_about_as_long_as_its_steps(program: TimedProgram) -> None:
    run = as_run(program, in_turns(program, program), 1.0)
    inside = sum(n * s.seconds for name, n in program.runs.items() for s in run.steps[name])
    assert 0 < inside < run.call


def test_a_program_as_users_have_it_times_no_steps(job: Job) -> None:
    with TimedProgram(job, steps=False) as plain:
        seconds, steps = plain.turn()
    assert seconds > 0 and steps == {}


def test_accumulated_steps_count_once_in_so_many(job: Job) -> None:
    with TimedProgram(replace(job, accumulate=3)) as program:
        assert {
            name: pytest.approx(3 * runs) for name, runs in program.runs.items() if name[0] in "at"
        } == {"accumulate": 2.0, "train": 1.0}
        _, steps = program.turn()
    assert all((taken > 0).any() for taken in steps.values())


def test_a_calibration_knows_the_steps_of_its_programs(job: Job) -> None:
    done: list[tuple[int, int]] = []
    schemes = [UpdateScheme.head_only(job.graph), UpdateScheme.full(job.graph)]
    found = calibrate(job, schemes, progress=lambda *at: done.append(at))
    assert done == [(1, 2), (2, 2)] and len(found.errors) == 2 and found.probe > 0
    for scheme in schemes:
        own = job.with_scheme(scheme)
        plan = plan_job(own).plan
        names = runs_of(plan, own)
        assert all(found.knows(work_of(s)) for n in names for s in plan.entries[n].schedule.steps)
        assert found.step_seconds(plan, own) > 0


def test_by_default_it_times_the_programs_whose_error_is_documented(job: Job) -> None:
    told: list[tuple[int, int]] = []
    tight = replace(job, target=replace(job.target, memory_budget=1))  # is for what is searched
    found = calibrate(tight, progress=lambda *at: told.append(at))
    schemes = calibration_schemes(job.graph)
    assert told[-1] == (len(schemes), len(schemes)) and len(schemes) > 4
    for scheme in schemes:
        steps = plan_job(job.with_scheme(scheme)).plan.entries["train"].schedule.steps
        assert all(found.knows(work_of(step)) for step in steps)


def test_calls_are_fitted_by_their_relative_errors(program: TimedProgram) -> None:
    run = as_run(program, [Turn(1.0, 1.0, program.turn()[1])], 1.0)
    found = from_runs([replace(run, call=seconds) for seconds in (0.8, 1.2)])
    best = (1 / 0.8 + 1 / 1.2) / (1 / 0.8**2 + 1 / 1.2**2)
    assert found.step_seconds(program.plan, program.job) == pytest.approx(best)


def test_nothing_to_time_is_refused(job: Job) -> None:
    with pytest.raises(InputError, match="at least one timed program"):
        calibrate(job, [])


def test_another_back_end_is_refused(job: Job) -> None:
    numpy = replace(job, target=Target.host(backend="numpy"))
    with pytest.raises(InputError, match="only the C back end measures its steps"):
        calibrate(numpy, [UpdateScheme.full(job.graph)])
