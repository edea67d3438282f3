"""Compiles a workload's programs, and writes what every contender starts from.

    python -m benchmarks.prepare WORKLOAD FOLDER THREADS

FOLDER gets full.pock and sparse.pock, weights.npz (the PyTorch model's state dict), batch.npz
(inputs, and the labels as `target`) and facts.json (`trained`: scheme -> names of what it trains;
`weight_bytes`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

import pockengine as pe
from benchmarks.networks import MODELS, arrays, calibrated
from benchmarks.workloads import SCHEMES, WORKLOADS


def main() -> None:
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    workload = WORKLOADS[name]
    model = MODELS[workload.network]
    torch.manual_seed(0)
    inputs, labels = model.inputs(workload.batch), model.labels(workload.batch)
    module = calibrated(model.make(), model.inputs(8)).train(workload.statistics == "batch")
    graph = pe.import_torch(module, model.inputs(2))
    for scheme in SCHEMES:
        pe.compile(
            graph,
            optimizer=pe.SGD(momentum=workload.momentum),
            scheme=model.scheme(graph, scheme),
            batch=workload.batch,
            micro_batch=workload.micro_batch.get(scheme),
            target=pe.Target.host(threads=threads),
        ).save(folder / f"{scheme}.pock")
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "batch.npz", **arrays(inputs), target=labels.numpy())
    trained = {scheme: sorted(model.scheme(graph, scheme).shares) for scheme in SCHEMES}
    facts = {"trained": trained, "weight_bytes": sum(w.nbytes for w in weights.values())}
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
