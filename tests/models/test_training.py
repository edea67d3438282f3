"""Ten optimizer steps equal PyTorch's: every loss, and the total change of every parameter."""

import numpy as np
import pytest
from training import SCHEMES, compiled_run, torch_run, untouched, worst_change
from zoo import QUICK, ZOO, models

import pockengine as pe
from pockengine.passes import recompute

# PyTorch's own float32 and float64 part at its first steps, whatever the rate.
CHAOTIC = ("levit",)
MODELS = [name for name in ZOO if name not in CHAOTIC]


def check(name: str, scheme_name: str, backend: str, micro_batch: int | None = None) -> None:
    entry = ZOO[name]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    scheme = SCHEMES[scheme_name](graph)
    selection = scheme.resolve(graph)
    target = pe.Target.host(backend=backend, threads=1)
    got = compiled_run(entry, graph, scheme, target, entry.lr, micro_batch)
    wanted = torch_run(entry, selection, entry.lr)
    assert set(got.state) == set(wanted.state)
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=1e-4)
    assert worst_change(graph.data, got, wanted, set(selection)) < 1e-3
    frozen = {n for n in graph.params if n not in selection}
    assert all(np.array_equal(got.state[n], graph.data[n]) for n in frozen)
    assert untouched(graph.data, got.state, selection)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", models(MODELS))
def test_ten_steps(name: str, scheme: str) -> None:
    check(name, scheme, "c")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_ten_steps_in_parts(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention's probabilities and normalised values are computed again, however small."""
    monkeypatch.setattr(recompute, "LEAST", 0)
    check(name, scheme, "c", micro_batch=4)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", QUICK)
def test_ten_steps_by_the_oracle(name: str, scheme: str) -> None:
    check(name, scheme, "numpy")
