"""Two pretrained image networks, each on three sets of images at 128x128."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import pockengine as pe
from benchmarks.tasks.pixels import SETS, SIDE, Images
from benchmarks.tasks.task import Recipe, Task
from benchmarks.tasks.vision_networks import efficientnet_lite0, squeezenet
from pockengine.data.base import Dataset, digest
from pockengine.runtime.program import Array


@dataclass(frozen=True)
class Family:
    """A network and what it takes: (bytes of RGB - mean) / deviation, in RGB's order or BGR's."""

    network: Callable[[int], nn.Module]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    blue_first: bool


FAMILIES = {
    "efficientnet-lite0": Family(
        efficientnet_lite0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False
    ),
    "squeezenet": Family(squeezenet, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), True),
}
# A new head starts from nothing, so it may go faster. With SGD at a rate that suits such a head the
# rest of EfficientNet-Lite0, whose statistics are frozen, collapses to one class; not with Adam.
_OPTIMIZERS = {
    "efficientnet-lite0": pe.Adam(groups=(pe.Group("fc.*", lr_scale=10.0),)),
    "squeezenet": pe.SGD(momentum=0.9),
}
_RATES = {"efficientnet-lite0": 3e-4, "squeezenet": 1e-3, "squeezenet/emoji": 2e-3}
RECIPES = {
    name: Recipe(_OPTIMIZERS[family], _RATES.get(name, _RATES[family]), batch=16, epochs=6)
    for family in FAMILIES
    for name in (f"{family}/{images}" for images in SETS)
}


class Pixels(Dataset):
    """Images as a family's network takes them, f32[n, 3, 128, 128], converted when asked for."""

    def __init__(self, images: Images, family: Family) -> None:
        self._images, self._family = images, family
        self.labels, self.classes = images.labels, images.classes

    def __len__(self) -> int:
        return len(self._images.labels)

    def _load(self, indices: Array) -> Array:
        mean, deviation = (np.float32(v) for v in (self._family.mean, self._family.deviation))
        x = (self._images.pixels[indices] - mean) / deviation
        x = x[..., ::-1] if self._family.blue_first else x
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def _ids(self, indices: Array) -> list[str]:
        return [f"{i}@{self.fingerprint()}" for i in indices]

    def fingerprint(self) -> str:
        family = self._family
        of_numbers = np.array([family.mean, family.deviation])
        return digest(self._images.name, of_numbers, str(family.blue_first))


def load(name: str) -> Task:
    """`efficientnet-lite0/elpv` and the like. Raises AssetError, see `fetch`."""
    kind, _, of = name.partition("/")
    family, images = FAMILIES[kind], SETS[of]()
    network = family.network(len(images.classes))
    graph = pe.import_torch(network, torch.zeros(2, 3, SIDE, SIDE))
    whole = Pixels(images, family)
    train, validation, test = (whole.subset(part) for part in images.parts)
    return Task.of(name, graph, (train, validation, test), RECIPES[name])
