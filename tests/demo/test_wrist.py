"""The whole demo, on the real recordings."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pockengine.data.assets import fetch
from pockengine.demo.personalise import HERE
from pockengine.demo.wrist import run
from pockengine.errors import AssetError

pytestmark = pytest.mark.slow


def weights(path: Path) -> dict[str, np.ndarray]:
    tensors = onnx.load(path).graph.initializer
    return {t.name: numpy_helper.to_array(t) for t in tensors}


def base_weights() -> list[np.ndarray]:
    found = weights(HERE / "base_network.onnx")
    return [tensor for name, tensor in found.items() if name.endswith(("weight", "bias"))]


def test_the_network_learns_the_new_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        fetch("watch")
    except AssetError as error:
        pytest.skip(f"the recordings cannot be fetched: {error}")
    run(tmp_path, as_json=True)
    printed = capsys.readouterr().out
    assert "Adapting to a new person" in printed
    facts = json.loads(printed.strip().splitlines()[-1])
    assert facts["accuracy_before"] < 0.75
    assert facts["accuracy_after"] > 0.9
    schemes = facts["schemes"]
    assert set(schemes) == {"sparse", "full", "head only"}
    assert schemes["full"]["accuracy_after"] > 0.95
    head = 7 * 128 + 7
    assert schemes["head only"]["trained_numbers"] == head
    assert schemes["sparse"]["trained_numbers"] == head + 96 + 128 + 96 * 32 * 3 + 128 * 48 * 3
    assert schemes["full"]["trained_numbers"] == sum(w.size for w in base_weights())
    for outcome in schemes.values():
        planned = outcome["planned_peak_bytes"]
        assert outcome["arena_bytes"] == planned
        assert outcome["measured_peak_bytes"] <= 1.05 * planned + 4 * 2**20
        assert outcome["step_ms"] > 0
    sizes = [schemes[name]["planned_peak_bytes"] for name in ("head only", "sparse", "full")]
    assert sizes == sorted(sizes)

    base = weights(HERE / "base_network.onnx")
    tuned = weights(tmp_path / "sparse.onnx")
    changed = {name for name in base if not np.array_equal(base[name], tuned[name])}
    assert changed == {
        "blocks.3.conv.weight",
        "blocks.3.conv.bias",
        "blocks.4.conv.weight",
        "blocks.4.conv.bias",
        "head.weight",
        "head.bias",
    }
