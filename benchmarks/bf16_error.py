"""What bf16 costs in accuracy and saves in memory.

    python benchmarks/bf16_error.py [--json] [--skip-demo]

Errors are relative L2 errors against float64, of single products, of the loss after ten steps of
training and of the change of all trained tensors by then. The networks are the small ones of
tests/models; the planned memory is that of the networks of full size.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pockengine as pe
from pockengine.compiler import plan_job
from pockengine.ir.graph import Graph
from pockengine.ir.op import Array
from pockengine.job import Job, Precision

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from comparison import arrays
from networks import MODELS
from training import BATCH, SCHEMES, batches, torch_run
from zoo import ZOO

PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "bf16_products")
NETWORKS = ("mobilenetv2", "resnet50", "bert")


class Shifted(nn.Module):
    """A frozen layer, and something to train."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.shift = layer, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1) + self.shift


LAYERS = {
    "product, 64 x 256 x 128": (lambda: nn.Linear(256, 128), (64, 256)),
    "product, 64 x 2048 x 512": (lambda: nn.Linear(2048, 512), (64, 2048)),
    "convolution 1x1, 256 -> 128": (lambda: nn.Conv2d(256, 128, 1), (8, 256, 14, 14)),
    "convolution 3x3, 64 -> 64": (lambda: nn.Conv2d(64, 64, 3, padding=1), (8, 64, 28, 28)),
}


@dataclass(frozen=True)
class Row:
    """One number of the report for each precision."""

    name: str
    measure: str
    values: dict[str, float]


def relative(got: Array, wanted: Array) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def layer_rows() -> Iterator[Row]:
    for name, (make, shape) in LAYERS.items():
        torch.manual_seed(0)
        model, x = Shifted(make()), torch.randn(shape)
        graph = pe.import_torch(model, (x[:2],))
        scheme = pe.UpdateScheme.select(graph, {"shift": 1.0})
        values = {}
        for precision in PRECISIONS:
            program = pe.compile(graph, scheme=scheme, batch=len(x), precision=precision)
            with pe.Session(program) as session:
                got = session.predict(x.numpy())
            values[precision] = got
        wanted = model.double()(x.double()).detach().numpy()
        yield Row(name, "result", {p: relative(v, wanted) for p, v in values.items()})


def network_rows() -> Iterator[Row]:
    for name in NETWORKS:
        for scheme in ("full", "sparse"):
            yield from training_rows(name, scheme)


def training_rows(name: str, scheme_name: str) -> Iterator[Row]:
    entry = ZOO[name]
    example, _ = entry.batch(2, 0)
    graph = pe.import_torch(entry.model(), example)
    scheme = SCHEMES[scheme_name](graph)
    wanted = torch_run(entry, scheme.resolve(graph), entry.lr)
    names = sorted(scheme.shares)
    before = {n: t.detach().double().numpy() for n, t in entry.model().state_dict().items()}
    losses, changes = {}, {}
    for precision in PRECISIONS:
        program = pe.compile(
            graph, optimizer=pe.SGD(momentum=0.9), scheme=scheme, batch=BATCH, precision=precision
        )
        with pe.Session(program) as session:
            steps = [session.step(arrays(graph, x), y.numpy(), entry.lr) for x, y in batches(entry)]
            state = session.state_dict()
        losses[precision] = abs(steps[-1] - wanted.losses[-1]) / abs(wanted.losses[-1])
        changed = np.concatenate([(state[n] - before[n]).ravel() for n in names])
        exact = np.concatenate([(wanted.state[n] - before[n]).ravel() for n in names])
        changes[precision] = relative(changed, exact)
    yield Row(f"{name}, {scheme_name}", "loss", losses)
    yield Row(f"{name}, {scheme_name}", "change of weights", changes)


def memory_rows() -> Iterator[Row]:
    for name, model in MODELS.items():
        torch.manual_seed(0)
        graph = pe.import_torch(model.make().eval(), model.inputs(2))
        for scheme in ("full", "sparse"):
            sizes = {p: planned(graph, model.scheme(graph, scheme), p) for p in PRECISIONS}
            yield Row(f"{name}, {scheme}, batch 8", "MB planned", sizes)


def planned(graph: Graph, scheme: pe.UpdateScheme, precision: Precision) -> float:
    job = Job.of(graph, "cross_entropy", pe.SGD(momentum=0.9), scheme, 8, None, precision=precision)
    return plan_job(job).plan.arena_bytes / 1e6


def demo_rows() -> Iterator[Row]:
    """The accuracy of the wrist demo's network on the new person, after all of its training."""
    from pockengine.demo.personalise import HERE, new_person, train  # noqa: PLC0415
    from pockengine.demo.task import BATCH, SPARSE  # noqa: PLC0415

    person, graph = new_person(), pe.import_onnx(HERE / "base_network.onnx")
    values = {}
    for precision in PRECISIONS:
        scheme = pe.UpdateScheme.select(graph, SPARSE)
        program = pe.compile(
            graph, optimizer=pe.Adam(), scheme=scheme, batch=BATCH, precision=precision
        )
        with pe.Session(program) as session:
            train(session, person)
            values[precision] = session.evaluate(person.test_x, person.test_y)["accuracy"]
    yield Row("wrist demo, sparse", "accuracy after", values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--skip-demo", action="store_true", help="needs data from the network")
    options = parser.parse_args()
    parts = [layer_rows, network_rows, memory_rows, *([] if options.skip_demo else [demo_rows])]
    found = []
    if not options.json:
        print(f"{'':36}{'':20}" + "".join(f"{p:>15}" for p in PRECISIONS))
    for part in parts:
        for row in part():
            found.append(row)
            if not options.json:
                cells = "".join(f"{row.values[p]:15.3g}" for p in PRECISIONS)
                print(f"{row.name:36}{row.measure:20}{cells}", flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    main()
