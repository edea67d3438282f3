"""A small residual network and a small vision transformer, each on two sets of images at 32x32.

Both have been trained on Fashion-MNIST's 60,000 photos of clothes, by pockengine itself; that
takes minutes of one core, once, and is kept in the cache folder. They then learn what emoji are
about, and to tell broken solar cells.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pockengine as pe
from benchmarks.tasks.fetch import PACKAGES
from benchmarks.tasks.pixels import SETS, whole_fashion
from benchmarks.tasks.small_networks import SmallResNet, SmallViT
from benchmarks.tasks.task import Recipe, Task
from pockengine.analysis.result import weights_hash
from pockengine.data.base import digest
from pockengine.data.dataset import ArrayDataset
from pockengine.files import cache_dir, write_atomically
from pockengine.ir.graph import Graph
from pockengine.runtime.program import Array

SIDE = 32
CLOTHES = 10  # classes of Fashion-MNIST
BASE_EPOCHS, BASE_BATCH = 2, 64


@dataclass(frozen=True)
class Family:
    """A network, and the rate that it was pretrained at."""

    network: Callable[[int], nn.Module]
    base_rate: float


FAMILIES = {"resnet": Family(SmallResNet, 2e-3), "vit": Family(SmallViT, 1e-3)}
_NEW_HEAD = pe.Group("head.*", lr_scale=10.0)  # starts from nothing, so it may go faster
RECIPES = {
    f"{family}/{of}": Recipe(pe.Adam(groups=(_NEW_HEAD,)), lr=3e-4, batch=16, epochs=10)
    for family in FAMILIES
    for of in ("emoji", "elpv")
}


def load(name: str) -> Task:
    """`resnet/emoji` and the like. Raises AssetError, see `fetch`."""
    family, _, of = name.partition("/")
    images = SETS[of]()
    network = pretrained(family, len(images.classes))
    graph = pe.import_torch(network, torch.zeros(2, 3, SIDE, SIDE))
    whole = ArrayDataset(_standardised(_small(images.pixels)), images.labels, images.classes)
    train, validation, test = (whole.subset(part) for part in images.parts)
    return Task.of(name, graph, (train, validation, test), RECIPES[name])


def _small(pixels: Array) -> Array:
    """u8[n, 128, 128, 3] -> f32[n, 3, 32, 32]: the mean of every 4x4 pixels."""
    n, side, _, channels = pixels.shape
    each = side // SIDE
    squares = pixels.reshape(n, SIDE, each, SIDE, each, channels)
    return squares.mean((2, 4), dtype=np.float32).transpose(0, 3, 1, 2)


def _standardised(pixels: Array) -> Array:
    """From 0 to 255 -> from -1 to 1."""
    return np.ascontiguousarray(pixels / np.float32(127.5) - np.float32(1))


# The pretrained networks


def pretrained(family: str, classes: int) -> nn.Module:
    """Trained on Fashion-MNIST, but for the head: small random weights, always the same."""
    found = FAMILIES[family]
    torch.manual_seed(0)
    fresh = pe.import_torch(found.network(CLOTHES).train(), torch.zeros(2, 3, SIDE, SIDE))
    path = _kept_at(family, fresh)
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez(buffer, **_trained(fresh, found.base_rate))
        write_atomically(path, buffer.getvalue())
    network = found.network(classes)
    with np.load(path) as file:
        kept = {n: torch.from_numpy(file[n]) for n in file.files if not n.startswith("head.")}
    seeded = torch.Generator().manual_seed(0)
    kept["head.weight"] = 0.01 * torch.randn(network.head.weight.shape, generator=seeded)
    kept["head.bias"] = torch.zeros(classes)
    network.load_state_dict(kept)
    return network.eval()


def _kept_at(family: str, fresh: Graph) -> Path:
    settings = f"{BASE_EPOCHS} {BASE_BATCH} {FAMILIES[family].base_rate}"
    key = digest(weights_hash(fresh), settings, PACKAGES["fashion"].sha256)[:16]
    return cache_dir() / "tasks" / f"{family}-base-{key}.npz"


def _trained(fresh: Graph, rate: float) -> dict[str, Array]:
    """The network's tensors after training, with batch statistics."""
    program = pe.compile(
        fresh,
        loss=pe.CrossEntropy(label_smoothing=0.05),
        optimizer=pe.AdamW(weight_decay=1e-2),
        batch=BASE_BATCH,
        target=pe.Target.host(threads=1),
    )
    with pe.Session(program) as session:
        trainer = pe.Trainer(session, lr=rate, schedule="cosine", warmup=100)
        trainer.fit(clothes(), epochs=BASE_EPOCHS, keep_best=False)
        return session.state_dict()


def clothes(part: str = "train") -> ArrayDataset:
    """Fashion-MNIST in grey, with a border: f32[n, 3, 32, 32]."""
    pixels, labels = whole_fashion(part)
    bordered = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    x = np.repeat(_standardised(bordered)[:, None], 3, axis=1)
    return ArrayDataset(x, labels, tuple(map(str, range(CLOTHES))))
