"""What may be trained, and how it is divided among programs."""

import pytest
from torch import nn
from zoo import ZOO

import pockengine as pe
from pockengine.analysis.candidates import (
    Candidate,
    bias_steps,
    candidates,
    groups,
    spread,
    start_scheme,
)


def test_every_weight_outside_the_head_is_a_candidate() -> None:
    entry = ZOO["mobilenetv2"]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    found = candidates(graph)
    head = set(pe.UpdateScheme.head_only(graph).shares)
    weights = {n for n, p in graph.params.items() if len(p.shape) > 1} - head
    assert {c.name for c in found} == weights
    assert [c.block for c in found] == sorted(c.block for c in found)
    assert all(c.ratios[-1] == 1.0 for c in found)


def test_ratios_that_mean_as_many_channels_count_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    import torch

    graph = pe.import_torch(model, (torch.randn(2, 3, 8, 8),))
    (only,) = candidates(graph)
    assert only.ratios == (0.25, 0.5, 1.0)  # of three channels one, two and three
    for ratio in only.ratios:
        pe.UpdateScheme({only.name: ratio}).resolve(graph)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 9])
def test_groups_keep_blocks_together_and_have_everything(most: int) -> None:
    found = [Candidate(f"w{i}", i // 3, (1.0,)) for i in range(14)]
    runs = groups(found, most)
    assert [c for run in runs for c in run] == found
    assert len(runs) <= most
    owners = [{c.block for c in run} for run in runs]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_starts_are_spread_over_the_blocks() -> None:
    entry = ZOO["resnet18"]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    steps = bias_steps(graph, 4)
    assert steps[0] == 0 and len(steps) <= 4
    sizes = [len(start_scheme(graph, last).shares) for last in steps]
    assert sizes == sorted(set(sizes))
    assert spread(0, 4) == (0,)
