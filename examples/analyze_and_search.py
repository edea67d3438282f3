"""From a network and samples to the small part of it that is worth training, step by step.

The network is pretrained on a task (here made up, in seconds), and then meets one that differs.
"""

# %% A network, and two tasks: levels beneath noise, and the same from a sensor that alternates.

from pathlib import Path

import numpy as np
import torch
from torch import nn

import pockengine as pe
from pockengine.analysis.check import check
from pockengine.analysis.estimate import estimate
from pockengine.analysis.report import SearchReport, write_report
from pockengine.ir.graph import Graph

Samples = tuple[np.ndarray, np.ndarray]
RATE = 0.05


class Block(nn.Module):
    """f32[N,16,32] -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def samples(count: int, seed: int, alternating: bool) -> Samples:
    """f32 (count, 2, 32), and which of three levels the two channels have."""
    rng, y = np.random.default_rng(seed), np.arange(count) % 3
    levels = np.array([[0.6, 0.0], [0.0, 0.6], [-0.4, -0.4]])[y]
    signs = (-1.0) ** np.arange(32) if alternating else np.ones(32)
    x = levels[:, :, None] * signs + rng.normal(0, 0.4, (count, 2, 32))
    return x.astype(np.float32), y


def pretrained() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 16, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(*(Block() for _ in range(4))),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()
    graph = pe.import_torch(model, torch.zeros(2, 2, 32))
    with pe.Session(pe.compile(graph, optimizer=pe.SGD(momentum=0.9), batch=16)) as session:
        trainer = pe.Trainer(session, lr=RATE, schedule="cosine")
        trainer.fit(samples(600, 0, alternating=False), epochs=4)
        weights = session.state_dict()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model


def accuracy(graph: Graph, scheme: pe.UpdateScheme, train: Samples) -> float:
    """After training with a scheme, on samples that nobody has seen."""
    program = pe.compile(graph, optimizer=pe.SGD(momentum=0.9), scheme=scheme, batch=16)
    with pe.Session(program) as session:
        trainer = pe.Trainer(session, lr=RATE, schedule="cosine")
        trainer.fit(train, epochs=4)
        return trainer.evaluate(samples(600, 2, alternating=True))["accuracy"]


def main() -> None:
    graph = pe.import_torch(pretrained(), torch.zeros(2, 2, 32))
    data = samples(900, 1, alternating=True)

    # %% What does training each tensor bring? Measured, with intervals.
    analysis = pe.analyze(graph, data, lr=RATE, fast=True, folder="analysis.work")
    print(f"common start: the head and the biases of the last {analysis.last} blocks")
    gains = analysis.gains
    for c in sorted(analysis.contributions, key=lambda c: -gains[c.name, c.ratio])[:5]:
        print(f"{c.name:18} {c.ratio:5g}  {gains[c.name, c.ratio]:+.3f}  {analysis.interval(c)}")
    analysis.save("analysis.json")

    # %% The scheme that brings the most in half of the memory between the head alone and all.
    searcher = analysis.searcher()
    everything = pe.UpdateScheme.full(graph)
    least, most = (searcher.oracle(s).memory_bytes for s in (searcher.space.head, everything))
    scheme = searcher.find(memory=(least + most) // 2)
    print(f"\nbudget {(least + most) // 2:,} bytes\n{scheme.explain()}\n")

    # %% Is the sum of the gains what training all of it together brings?
    checked = check(analysis, scheme, data, folder="analysis.work")
    print(f"together, {checked}")
    for name, chosen in {
        "head alone": searcher.space.head,
        "found": scheme,
        "full": everything,
    }.items():
        size = searcher.oracle(chosen).memory_bytes
        print(f"{name:10}  {accuracy(graph, chosen, data):.1%} in {size:,} bytes")

    # %% Would a cheap proxy have chosen the same? It takes a second.
    guess = estimate(graph, data, "fisher").search(memory=(least + most) // 2)
    shared = set(guess.shares) & set(scheme.shares)
    print(f"\nby Fisher information: {len(guess.shares)} tensors, {len(shared)} of them the same")

    # %% Everything on a page, and the scheme in a file for `pockengine compile --scheme`.
    Path("scheme.json").write_text(scheme.to_json())
    write_report("report.html", analysis, SearchReport(scheme, searcher.space, searcher.job))
    print("wrote report.html and scheme.json")


if __name__ == "__main__":
    main()
