"""The demo's split is honest, and the base network that is shipped is what it says."""

import json

import numpy as np
import onnx
import pytest

from pockengine.data.watch import Recordings
from pockengine.demo import task
from pockengine.demo.task import person_windows, scale_without

DEMO = task.__file__.rpartition("/")[0]


@pytest.fixture
def recordings() -> Recordings:
    """Three people; every sample's first channel is its own time, its second the person."""
    people = np.array([1, 2, 2, 3])
    series = []
    for person in people:
        samples = np.random.default_rng(person).normal(size=(1000, 6)).astype(np.float32)
        samples[:, 0] = np.arange(1000)
        samples[:, 1] = person * 1000 + samples[:, 1]
        series.append(samples)
    return Recordings(tuple(series), np.array([0, 1, 2, 1]), people, ("a", "b", "c"))


def test_adapting_windows_end_before_judging_windows_begin(recordings: Recordings) -> None:
    scale = task.Scale(np.zeros(6, np.float32), np.ones(6, np.float32))
    person = person_windows(recordings, 2, scale)
    assert person.adapt_x[:, 0].max() == 64 * 4 + 127  # the last whole window before sample 400
    assert person.test_x[:, 0].min() == 400
    assert person.adapt_x.shape[1:] == person.test_x.shape[1:] == (6, 128)


def test_only_the_persons_own_series_with_their_labels(recordings: Recordings) -> None:
    scale = task.Scale(np.zeros(6, np.float32), np.ones(6, np.float32))
    person = person_windows(recordings, 2, scale)
    assert set(np.round(person.adapt_x[:, 1] / 1000).ravel()) == {2}
    assert len(person.adapt_x) == len(person.adapt_y)
    assert set(person.test_y) == {1, 2}


def test_the_scale_has_not_seen_the_held_out_person(recordings: Recordings) -> None:
    scale = scale_without(recordings, 2)
    others = np.concatenate([recordings.series[0], recordings.series[3]])
    np.testing.assert_allclose(scale.mean, others.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scale.deviation, others.std(0), rtol=1e-4)


def test_the_base_network_is_small_named_and_anonymous() -> None:
    model = onnx.load(f"{DEMO}/base_network.onnx")
    assert model.ByteSize() < 1_000_000
    names = {weight.name for weight in model.graph.initializer}
    assert {"blocks.0.conv.weight", "blocks.4.conv.bias", "head.weight", "head.bias"} <= names
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.metadata_props for node in model.graph.node)


def test_the_base_networks_scale_has_six_channels() -> None:
    with open(f"{DEMO}/base_network.json") as file:
        facts = json.load(file)
    assert facts["held_out_person"] == 2
    assert len(facts["mean"]) == len(facts["deviation"]) == 6
    assert len(facts["exercises"]) == 7
