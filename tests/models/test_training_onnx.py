"""Ten optimizer steps of models from ONNX equal PyTorch's, and go back into the file."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from comparison import call
from training import BATCH as BATCH_SIZE
from training import SCHEMES, compiled_run, torch_run, untouched, worst_change
from zoo import ZOO, Entry

import pockengine as pe
from pockengine.frontends.onnx import import_onnx
from pockengine.frontends.onnx_export import write_back
from pockengine.ir.types import BATCH

FAST = [("mlp", "full"), ("mobilenetv2", "sparse"), ("bert", "full")]
FROZEN_STATISTICS = ["mlp", "mobilenetv2", "resnet18", "squeezenet", "mlp_mixer", "vit", "bert"]
SLOW = [(n, s) for n in FROZEN_STATISTICS for s in SCHEMES if (n, s) not in FAST]


@dataclass(frozen=True)
class Evaluated(Entry):
    """A model as ONNX exports it: batch norms keep their statistics, no index means padding."""

    def model(self) -> torch.nn.Module:
        model = super().model()
        with torch.no_grad():
            for seed in range(20):  # statistics that fit, so that no activation vanishes
                call(model, self.batch(BATCH_SIZE, seed)[0])
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.padding_idx = None
        return model.eval()


def evaluated(name: str) -> Entry:
    entry = ZOO[name]
    return Evaluated(entry.make, entry.inputs, lr=entry.lr)


def exported(entry: Entry) -> onnx.ModelProto:
    """By the newer exporter; `optimize=False` keeps every parameter and its name."""
    inputs, _ = entry.batch(2, 0)
    named = isinstance(inputs, dict)
    batch = {0: torch.export.Dim("batch")}
    shapes = dict.fromkeys(inputs, batch) if named else tuple(batch for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            entry.model(),
            () if named else inputs,
            kwargs=inputs if named else None,
            dynamic_shapes=shapes,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    return program.model_proto


def exported_for_training(entry: Entry) -> onnx.ModelProto:
    """By the older exporter, whose batch norms may use the statistics of the batch."""
    inputs, _ = entry.batch(2, 0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            entry.model(),
            inputs,
            file,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def check(entry: Entry, model: onnx.ModelProto, scheme_name: str, folder: Path) -> None:
    graph = import_onnx(model)
    assert {v.shape[0] for v in graph.inputs} == {BATCH}
    assert set(graph.params) == {n for n, _ in entry.model().named_parameters()}
    scheme = SCHEMES[scheme_name](graph)
    selection = scheme.resolve(graph)
    got = compiled_run(entry, graph, scheme, pe.Target.host(), entry.lr)
    wanted = torch_run(entry, selection, entry.lr)
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=1e-4)
    assert worst_change(graph.data, got, wanted, set(selection)) < 1e-3
    assert untouched(graph.data, got.state, selection)
    write_back(model, got.state, folder / "tuned.onnx")
    again = import_onnx(folder / "tuned.onnx")
    assert all(np.array_equal(again.data[n], got.state[n]) for n in graph.params)


def check_evaluated(name: str, scheme: str, folder: Path) -> None:
    entry = evaluated(name)
    check(entry, exported(entry), scheme, folder)


@pytest.mark.parametrize(("name", "scheme"), FAST)
def test_ten_steps(name: str, scheme: str, tmp_path: Path) -> None:
    check_evaluated(name, scheme, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), SLOW)
def test_ten_steps_of_other_models(name: str, scheme: str, tmp_path: Path) -> None:
    check_evaluated(name, scheme, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn1d", "unet"])
def test_ten_steps_with_the_statistics_of_the_batch(name: str, tmp_path: Path) -> None:
    entry = ZOO[name]
    check(entry, exported_for_training(entry), "full", tmp_path)
