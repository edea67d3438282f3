"""An ONNX file goes in, a tuned ONNX file comes out: same graph, same names, new weights.

    python examples/finetune_onnx.py [MODEL.onnx]

Without an argument it takes the network of `pockengine demo`, and random windows for data.
"""

import sys
from pathlib import Path

import numpy as np

import pockengine as pe
from pockengine.demo.personalise import HERE
from pockengine.frontends.onnx_export import write_back

BATCH = 8


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "base_network.onnx"
    for problem in pe.check_onnx(source):  # everything that cannot be imported, at once
        print(problem)
    graph = pe.import_onnx(source)
    scheme = pe.UpdateScheme.biases(graph, last=2) | pe.UpdateScheme.head_only(graph)
    program = pe.compile(graph, optimizer="adam", scheme=scheme, batch=BATCH)
    program.save("adapt.pock")

    # From here on only NumPy is needed: this half could run on another machine of the same kind.
    with pe.Session.load("adapt.pock") as session:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(BATCH, *graph.inputs[0].shape[1:])).astype(np.float32)
        y = rng.integers(0, session.signature.classes, BATCH)
        losses = [session.step(x, y, lr=2e-3) for _ in range(30)]
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        weights = session.state_dict()

    write_back(source, weights, "tuned.onnx")
    print("wrote tuned.onnx")


if __name__ == "__main__":
    main()
