"""Proxies: gradients are PyTorch's, scores are what they say, and an analysis is made of them."""

from pathlib import Path

import numpy as np
import pytest
import small_task
import torch
from pytest import approx
from torch.nn.functional import cross_entropy

import pockengine as pe
from pockengine.analysis.candidates import candidates
from pockengine.analysis.check import check
from pockengine.analysis.estimate import estimate
from pockengine.analysis.proxies import (
    PROXIES,
    Gradients,
    agreement,
    channel_scores,
    gradients,
    scores,
    weight_snr,
)
from pockengine.analysis.result import Contribution
from pockengine.data.dataset import as_dataset
from pockengine.data.loader import Loader
from pockengine.errors import AnalysisError, InputError
from pockengine.ir.graph import Graph

GRAPH = small_task.graph()
FOUND = candidates(GRAPH)
DATA = as_dataset(small_task.samples(64))


@pytest.fixture(scope="module")
def known() -> Gradients:
    return gradients(GRAPH, DATA, FOUND, batches=3, seed=5)


def torch_gradients() -> list[dict[str, np.ndarray]]:
    model, found = small_task.network(), []
    batches = list(Loader(DATA, 16, seed=5).epoch(0))[:3]
    for x, y in batches:
        model.zero_grad()
        cross_entropy(model(torch.from_numpy(np.array(x))), torch.from_numpy(y)).backward()
        found.append({n: p.grad.double().numpy().copy() for n, p in model.named_parameters()})
    return found


def test_gradients_are_those_of_pytorch(known: Gradients) -> None:
    expected = torch_gradients()
    assert known.batches == 3 and set(known.total) == {c.name for c in FOUND}
    for name, total in known.total.items():
        np.testing.assert_allclose(total, sum(g[name] for g in expected), rtol=2e-4, atol=1e-7)
        squares = sum(g[name] ** 2 for g in expected)
        np.testing.assert_allclose(known.squares[name], squares, rtol=4e-4, atol=1e-9)


def test_small_gradients_are_not_lost_beside_large_weights() -> None:
    model = small_task.network()
    with torch.no_grad():
        model[5].weight *= 1e-6  # which makes all other gradients small
    found = gradients(pe.import_torch(model, small_task.make()[1]), DATA, FOUND, batches=1)
    x, y = next(iter(Loader(DATA, 16, seed=0).epoch(0)))
    cross_entropy(model(torch.from_numpy(np.array(x))), torch.from_numpy(y)).backward()
    expected = model[2][0].conv.weight.grad.double().numpy()
    error = np.abs(found.total["2.0.conv.weight"] - expected).max()
    assert error < 1e-3 * np.abs(expected).max()


def test_scores_by_their_formulas(known: Gradients) -> None:
    by_proxy = scores(GRAPH, FOUND, known)
    assert tuple(by_proxy) == PROXIES
    name = "2.1.conv.weight"
    weight = np.asarray(GRAPH.data[name], np.float64)
    assert by_proxy["weight_norm"][name] == approx(np.sqrt((weight**2).sum()))
    assert by_proxy["gradient_norm"][name] == approx(np.linalg.norm(known.total[name] / 3))
    assert by_proxy["fisher"][name] == approx(known.squares[name].sum() / 3)
    channels = channel_scores(known, GRAPH)[name]
    assert channels.shape == (8,)
    assert channels.sum() / 3 == approx(by_proxy["fisher"][name])


def test_noise_has_no_signal() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (64, 96))
    direction = np.outer(rng.normal(0, 1, 64), rng.normal(0, 1, 96))
    assert weight_snr(noise, 1) < 0.2
    assert weight_snr(noise + direction, 1) > 5 * weight_snr(noise, 1)
    assert weight_snr(noise, 0) < 0.2 and weight_snr(noise[:1], 1) == 0.0


def test_new_weights_have_no_signal() -> None:
    with pytest.raises(AnalysisError, match=r"weight_snr is 0.0 at its largest, so it ranks"):
        estimate(GRAPH, DATA, "weight_snr")


def measured(means: dict[str, float]) -> pe.Analysis:
    made = estimate(GRAPH, DATA, "weight_norm")
    rows = tuple(Contribution(name, 1.0, (mean,)) for name, mean in means.items())
    return pe.Analysis(made.settings, made.starts, 0, rows, made.spread)


def test_agreement_is_that_of_ranks() -> None:
    analysis = measured({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    found = agreement(
        analysis,
        {
            "same": {"a": 1.0, "b": 2.0, "c": 30.0, "d": 400.0, "e": 0.0},
            "reversed": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0},
            "swapped": {"a": 2.0, "b": 1.0, "c": 3.0, "d": 4.0},
        },
    )
    assert found == {"same": approx(1.0), "reversed": approx(-1.0), "swapped": approx(0.8)}


def with_directions() -> Graph:
    """The network, its weights such as training leaves them: not noise alone."""
    model = small_task.network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 if parameter.ndim > 1 else 0.0
    return pe.import_torch(model, small_task.make()[1])


@pytest.mark.parametrize("proxy", PROXIES)
def test_an_analysis_by_a_proxy(proxy: str, tmp_path: Path) -> None:
    graph = with_directions()
    made = estimate(graph, DATA, proxy, batches=2)
    assert made.settings.estimated and made.settings.metric == proxy
    gains = made.gains
    assert set(gains) == {(c.name, ratio) for c in FOUND for ratio in c.ratios}
    assert max(max(gains.values()), *made.bias_gains.values()) == approx(1.0)
    for c in FOUND:
        by_ratio = [gains[c.name, ratio] for ratio in c.ratios]
        assert by_ratio == sorted(by_ratio) and by_ratio[0] >= 0
    made.save(tmp_path / "estimate.json")
    assert pe.Analysis.load(tmp_path / "estimate.json", graph) == made
    found = made.search(memory="1MB")
    assert found.gain > 0 and found.cost.memory_bytes <= 1_000_000
    assert estimate(graph, DATA, proxy, batches=2).gains == gains


def test_what_an_estimate_is_refused_for() -> None:
    with pytest.raises(InputError, match="no proxy is called 'magic'; there are weight_norm, "):
        estimate(GRAPH, DATA, "magic")
    made = estimate(GRAPH, DATA, "weight_norm")
    with pytest.raises(AnalysisError, match="estimated by weight_norm, which predicts no accuracy"):
        check(made, made.search(), DATA)


def test_weights_of_nothing_rank_nothing() -> None:
    model = small_task.network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    graph = pe.import_torch(model, small_task.make()[1])
    with pytest.raises(AnalysisError, match=r"weight_norm is 0.0 at its largest, so it ranks"):
        estimate(graph, DATA, "weight_norm")
