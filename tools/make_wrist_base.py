"""Trains the wrist demo's base network and exports it: needs PyTorch, onnx and onnxscript.

    python tools/make_wrist_base.py            # writes base_network.onnx and base_network.json
    python tools/make_wrist_base.py --table    # every person held out in turn, as Markdown

The network is a plain 1-D CNN trained on nine of the ten people. The person left out is the one
the demo adapts to. That is person 2, chosen because the base network serves this person worst of
all ten: the case personalisation is for, and not the typical one. docs/demo.md shows all ten.
"""

import argparse
import copy
import fnmatch
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pockengine.data.watch import Recordings, load_recordings
from pockengine.data.windows import Floats, Labels, shuffled_batches
from pockengine.demo.task import (
    BATCH,
    EPOCHS,
    LEARNING_RATE,
    SPARSE,
    WINDOW,
    Person,
    Scale,
    person_windows,
    scale_without,
    windows_of,
)

HELD_OUT = 2
BASE_EPOCHS, BASE_BATCH = 12, 64
BLOCKS = ((6, 32, 7, 2), (32, 64, 5, 1), (64, 64, 5, 2), (64, 96, 3, 1), (96, 128, 3, 1))
EXERCISES = 7
DEMO = Path(__file__).parents[1] / "src" / "pockengine" / "demo"
SCHEMES: dict[str, Mapping[str, float]] = {
    "head only": {"head.*": 1.0},
    "sparse": SPARSE,
    "full": {"*": 1.0},
}


class Block(nn.Module):
    """Convolution, batch norm, ReLU; (batch, inputs, time) -> (batch, outputs, time / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm: nn.Module = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x)))


class WristNetwork(nn.Module):
    """(batch, 6, 128) standardised samples -> (batch, exercises) logits."""

    def __init__(self, exercises: int = EXERCISES) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(*row) for row in BLOCKS))
        self.head = nn.Linear(BLOCKS[-1][1], exercises)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean(2))


def train_base(x: Floats, y: Labels) -> WristNetwork:
    """Trains with batch norm, then folds it into the convolutions. Same bits for one thread."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = WristNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = BASE_EPOCHS * -(-len(x) // BASE_BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(BASE_EPOCHS):
        for batch_x, batch_y in shuffled_batches(x, y, BASE_BATCH, rng):
            step(network, optimizer, batch_x, batch_y, smoothing=0.05)
            schedule.step()
    return fold(network)


def step(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Floats, y: Labels, smoothing: float
) -> None:
    logits = network(torch.from_numpy(x))
    loss = functional.cross_entropy(logits, torch.from_numpy(y), label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fold(network: WristNetwork) -> WristNetwork:
    network.eval()
    for block in network.blocks:
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = nn.Identity()
    return network


def train_without(recordings: Recordings, person: int) -> tuple[WristNetwork, Scale]:
    scale = scale_without(recordings, person)
    others = np.flatnonzero(recordings.person != person)
    series = (recordings.series[i] for i in others)
    exercises = (int(recordings.exercise[i]) for i in others)
    return train_base(*windows_of(series, exercises, scale)), scale


def adapted(base: WristNetwork, person: Person, shares: Mapping[str, float]) -> WristNetwork:
    """A copy of the base, adapted as the demo does, by PyTorch's autograd and Adam."""
    network = copy.deepcopy(base)
    for name, weight in network.named_parameters():
        share = next((s for glob, s in shares.items() if fnmatch.fnmatch(name, glob)), 0.0)
        weight.requires_grad_(share > 0)
        if 0 < share < 1:
            weight.register_hook(strongest_inputs(weight, share).mul)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for x, y in shuffled_batches(person.adapt_x, person.adapt_y, BATCH, rng):
            step(network, optimizer, x, y, smoothing=0.0)
    return network


def strongest_inputs(weight: torch.Tensor, share: float) -> torch.Tensor:
    """1 for the input channels with the largest norm, 0 for the others; (1, inputs, 1)."""
    norm = weight.detach().norm(dim=(0, 2))
    mask = torch.zeros_like(norm)
    mask[norm.topk(round(share * len(norm))).indices] = 1
    return mask[None, :, None]


def accuracy(network: nn.Module, person: Person) -> float:
    with torch.no_grad():
        guess = network(torch.from_numpy(person.test_x)).argmax(1).numpy()
    return float((guess == person.test_y).mean())


def export(network: WristNetwork, path: Path) -> None:
    """ONNX with a symbolic batch and the state dict's names, and no notes on who exported it."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, BLOCKS[0][0], WINDOW),),
        dynamo=True,
        opset_version=18,
        input_names=["samples"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    model = program.model_proto
    del model.graph.value_info[:]
    for holder in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del holder.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_base(recordings: Recordings) -> None:
    network, scale = train_without(recordings, HELD_OUT)
    export(network, DEMO / "base_network.onnx")
    facts = {
        "held_out_person": HELD_OUT,
        "exercises": recordings.exercises,
        "mean": scale.mean.tolist(),
        "deviation": scale.deviation.tolist(),
    }
    (DEMO / "base_network.json").write_text(json.dumps(facts, indent=1) + "\n")
    person = person_windows(recordings, HELD_OUT, scale)
    print(f"person {HELD_OUT}: accuracy before adapting {accuracy(network, person):.3f}")


def print_table(recordings: Recordings) -> None:
    print(
        "| person | windows to adapt on | to judge by | before |", *SCHEMES, sep=" | ", end=" |\n"
    )
    print("| --: " * (4 + len(SCHEMES)) + "|")
    rows = []
    for held_out in range(1, 11):
        base, scale = train_without(recordings, held_out)
        person = person_windows(recordings, held_out, scale)
        tuned = [accuracy(adapted(base, person, s), person) for s in SCHEMES.values()]
        rows.append([accuracy(base, person), *tuned])
        print_row(held_out, len(person.adapt_x), len(person.test_x), rows[-1])
    print_row("mean", "", "", np.mean(rows, axis=0))


def print_row(who: object, adapt: object, test: object, scores: Iterable[float]) -> None:
    print(f"| {who} | {adapt} | {test} |", " | ".join(f"{100 * s:.1f}" for s in scores), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="hold out every person in turn")
    table = parser.parse_args().table
    torch.set_num_threads(1)
    recordings = load_recordings()
    if table:
        print_table(recordings)
    else:
        write_base(recordings)


if __name__ == "__main__":
    main()
