"""The imported forward graph computes what the model computes, at any batch size, in both modes."""

import pytest
from comparison import relative, scores, torch_scores
from zoo import ZOO, models

from pockengine.frontends.torch import import_torch


@pytest.mark.parametrize("name", models(ZOO))
@pytest.mark.parametrize("training", [True, False])
def test_forward(name: str, training: bool) -> None:
    entry = ZOO[name]
    model = entry.model().train(training and not entry.frozen)
    graph = import_torch(model, entry.batch(3, 0)[0])
    for batch in (4, 7):  # statistics of two samples alone would magnify every rounding error
        inputs, _ = entry.batch(batch, batch)
        wanted = torch_scores(model, inputs)
        assert relative(scores(graph, inputs, batch), wanted) < 5e-5


@pytest.mark.parametrize("name", models(ZOO))
def test_every_tensor_keeps_its_name(name: str) -> None:
    entry = ZOO[name]
    model = entry.model()
    graph = import_torch(model, entry.batch(3, 0)[0])
    assert set(model.state_dict()) <= set(graph.data) | set(graph.aliases)
    assert set(graph.params) <= set(dict(model.named_parameters()))
