"""The demo's network, personalised to each of the ten people in turn.

The base network for a person has been trained on the other nine, as tools/make_wrist_base.py does
it, but by pockengine itself; that takes seconds, once, and is kept in the cache folder. Of each of
the person's series the first 40 % are to train on, as in the demo, the next 20 % to validate on,
and the last 40 % to test on. The series are cut before windows are, so no window is in two parts.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from tools.make_wrist_base import BLOCKS, WristNetwork
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import pockengine as pe
from benchmarks.tasks.task import Recipe, Task
from pockengine.data.assets import ASSETS
from pockengine.data.base import Dataset, digest
from pockengine.data.dataset import ArrayDataset
from pockengine.data.watch import Recordings, load_recordings
from pockengine.data.windows import (
    Floats,
    cut_windows,
    shuffled_batches,
    split_in_time,
    standardise,
)
from pockengine.demo.task import BATCH, EPOCHS, HOP, WINDOW, Scale, scale_without, windows_of
from pockengine.files import cache_dir, write_atomically
from pockengine.runtime.program import Array

BORDERS = (0.4, 0.6)  # in each series: where training ends, and where testing begins
DENSE_HOP = HOP // 2  # of the windows that judge: more of them
BASE_EPOCHS, BASE_BATCH, BASE_RATE = 12, 64, 2e-3
RECIPE = Recipe(pe.Adam(), 1e-3, BATCH, EPOCHS)


def load(name: str) -> Task:
    """`wrist/1` to `wrist/10`. Raises AssetError, see `pockengine.data.assets.fetch`."""
    person, recordings = int(name.partition("/")[2]), load_recordings()
    network = base_network(recordings, person)
    graph = pe.import_torch(network, torch.zeros(2, BLOCKS[0][0], WINDOW))
    return Task.of(name, graph, own_data(recordings, person), RECIPE)


def own_data(recordings: Recordings, person: int) -> tuple[Dataset, Dataset, Dataset]:
    """The person's windows to train on, to validate on and to test on."""
    scale = scale_without(recordings, person)
    parts: tuple[list[Floats], ...] = ([], [], [])
    labels: tuple[list[Array], ...] = ([], [], [])
    for i in np.flatnonzero(recordings.person == person):
        series = standardise(recordings.series[i], scale.mean, scale.deviation)
        for part, number, cut in zip(parts, labels, windows_in_time(series), strict=True):
            part.append(cut)
            number.append(np.full(len(cut), recordings.exercise[i], np.int64))
    train, validation, test = (
        ArrayDataset(np.concatenate(x), np.concatenate(y), recordings.exercises)
        for x, y in zip(parts, labels, strict=True)
    )
    return train, validation, test


def windows_in_time(series: Floats) -> tuple[Floats, Floats, Floats]:
    """The windows of one series in three parts, one after the other."""
    first, rest = split_in_time(series, BORDERS[0])
    second, third = split_in_time(rest, (BORDERS[1] - BORDERS[0]) / (1 - BORDERS[0]))
    return (
        cut_windows(first, WINDOW, HOP),
        cut_windows(second, WINDOW, DENSE_HOP),
        cut_windows(third, WINDOW, DENSE_HOP),
    )


# The base network


def base_network(recordings: Recordings, person: int) -> nn.Module:
    """A network that has never seen the person, with its norms folded into its convolutions."""
    path = _kept_at(person)
    network = WristNetwork(len(recordings.exercises))
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez(buffer, **_trained(network, recordings, person))
        write_atomically(path, buffer.getvalue())
    with np.load(path) as file:
        network.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    return _folded(network)


def _kept_at(person: int) -> Path:
    settings = f"{BLOCKS} {BASE_EPOCHS} {BASE_BATCH} {BASE_RATE} {WINDOW} {HOP}"
    key = digest(settings, ASSETS["watch"].member_sha256)[:16]
    return cache_dir() / "tasks" / f"wrist-base-{key}" / f"without_{person}.npz"


def _trained(network: nn.Module, recordings: Recordings, person: int) -> dict[str, Array]:
    """The network's tensors after training on everybody else, with batch statistics."""
    x, y = _windows_without(recordings, person, scale_without(recordings, person))
    torch.manual_seed(0)
    fresh = WristNetwork(len(recordings.exercises)).train()
    program = pe.compile(
        pe.import_torch(fresh, torch.zeros(2, BLOCKS[0][0], WINDOW)),
        loss=pe.CrossEntropy(label_smoothing=0.05),
        optimizer=pe.AdamW(weight_decay=1e-2),
        batch=BASE_BATCH,
    )
    rng, steps, done = np.random.default_rng(0), BASE_EPOCHS * math.ceil(len(x) / BASE_BATCH), 0
    with pe.Session(program) as session:
        for _ in range(BASE_EPOCHS):
            for batch_x, batch_y in shuffled_batches(x, y, BASE_BATCH, rng):
                rate = BASE_RATE * (1 + math.cos(math.pi * done / steps)) / 2
                session.step(batch_x, batch_y, lr=rate)
                done += 1
        return session.state_dict()


def _windows_without(recordings: Recordings, person: int, scale: Scale) -> tuple[Floats, Array]:
    others = np.flatnonzero(recordings.person != person)
    series = (recordings.series[i] for i in others)
    return windows_of(series, (int(recordings.exercise[i]) for i in others), scale)


def _folded(network: WristNetwork) -> nn.Module:
    network.eval()
    for block in network.blocks:
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = nn.Identity()
    return network
