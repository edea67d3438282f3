"""Ten optimizer steps equal PyTorch's: every loss, and the total change of every parameter."""

import numpy as np
import pytest
from training import SCHEMES, compiled_run, torch_run, untouched, worst_change
from zoo import ZOO

import pockengine as pe

# PyTorch's own float32 and float64 part at its first steps, whatever the rate.
CHAOTIC = ("levit",)
FAST = [name for name, entry in ZOO.items() if not entry.slow]
SLOW = [name for name, entry in ZOO.items() if entry.slow and name not in CHAOTIC]


def check(name: str, scheme_name: str, backend: str) -> None:
    entry = ZOO[name]
    graph = pe.import_torch(entry.model(), entry.batch(2, 0)[0])
    scheme = SCHEMES[scheme_name](graph)
    selection = scheme.resolve(graph)
    got = compiled_run(entry, graph, scheme, pe.Target.host(backend=backend, threads=1), entry.lr)
    wanted = torch_run(entry, selection, entry.lr)
    assert set(got.state) == set(wanted.state)
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=1e-4)
    assert worst_change(graph.data, got, wanted, set(selection)) < 1e-3
    frozen = {n for n in graph.params if n not in selection}
    assert all(np.array_equal(got.state[n], graph.data[n]) for n in frozen)
    assert untouched(graph.data, got.state, selection)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", FAST)
def test_ten_steps(name: str, scheme: str) -> None:
    check(name, scheme, "c")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", SLOW)
def test_ten_steps_of_other_models(name: str, scheme: str) -> None:
    check(name, scheme, "c")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_ten_steps_by_the_oracle(name: str, scheme: str) -> None:
    check(name, scheme, "numpy")
