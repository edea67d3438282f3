"""The oracle says what the planner says, from its cache too."""

from dataclasses import replace

import pytest
from zoo import ZOO

from pockengine import SGD, Target, UpdateScheme, import_torch
from pockengine.analysis.cost import Cost, CostOracle
from pockengine.analysis.timing import Calibration
from pockengine.compiler import plan_job
from pockengine.errors import InputError, SchemeError
from pockengine.ir.memo import Memo
from pockengine.job import Job
from pockengine.plan.report import extra_training_bytes


@pytest.fixture(scope="module")
def job() -> Job:
    entry = ZOO["mobilenetv2"]
    graph = import_torch(entry.model(), entry.batch(2, 0)[0])
    target = Target.named("avx2", threads=2)
    return Job.of(graph, "cross_entropy", SGD(momentum=0.9), None, 4, target)


def schemes(job: Job) -> list[UpdateScheme]:
    graph = job.graph
    weights = [name for name, value in graph.params.items() if value.type.rank == 4]
    some = UpdateScheme.select(graph, {weights[-2]: 0.5})
    return [
        UpdateScheme.full(graph),
        UpdateScheme.head_only(graph),
        UpdateScheme.biases(graph),
        UpdateScheme.last_blocks(graph, 1),
        UpdateScheme.head_only(graph) | some,
        UpdateScheme.biases(graph, 1) | some,
    ]


def test_costs_are_those_of_the_planner(job: Job) -> None:
    oracle = CostOracle(job)
    for scheme in (*schemes(job), *reversed(schemes(job))):
        plan = plan_job(job.with_scheme(scheme)).plan
        end = plan.entries["train"].end
        assert oracle(scheme) == Cost(plan.arena_bytes, extra_training_bytes(plan), 0.0, end)


def test_a_memo_changes_no_plan(job: Job) -> None:
    memo = Memo()
    for scheme in schemes(job):
        alone, shared = (plan_job(job.with_scheme(scheme), memo=m).plan for m in (None, memo))
        for name, entry in alone.entries.items():
            other = shared.entries[name]
            assert list(map(str, other.schedule.graph.values())) == list(
                map(str, entry.schedule.graph.values())
            )
            assert list(other.slots.values()) == list(entry.slots.values())


def test_many_in_processes_are_the_same(job: Job) -> None:
    alone, several = CostOracle(job, processes=1), CostOracle(job, processes=2)
    assert several.many(schemes(job)) == alone.many(schemes(job))


def test_a_scheme_that_does_not_fit_is_refused_by_many_too(job: Job) -> None:
    with pytest.raises(SchemeError, match="names no parameter"):
        CostOracle(job).many([*schemes(job), UpdateScheme({"nothing": 1.0})])


def test_the_memory_budget_is_left_out(job: Job) -> None:
    full = schemes(job)[0]
    tight = replace(job, target=replace(job.target, memory_budget=1000))
    assert CostOracle(tight)(full) == CostOracle(job)(full)


def test_what_was_asked_is_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = CostOracle(job)
    found = oracle.many(schemes(job))
    monkeypatch.setattr("pockengine.analysis.cost.plan_job", None)
    assert [oracle(scheme) for scheme in schemes(job)] == found
    assert len(set(found)) == len(found)


def test_seconds_are_those_of_the_time_model(job: Job) -> None:
    assert CostOracle(job, Calibration((), 0.25, 0.0))(schemes(job)[1]).step_seconds == 0.25


def test_tuned_jobs_are_refused(job: Job) -> None:
    with pytest.raises(InputError, match="leave out tune=True"):
        CostOracle(replace(job, tune=True))
