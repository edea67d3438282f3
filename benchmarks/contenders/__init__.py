"""Who takes part. Each module has `load(case, variant)`, which brings the weights into memory.

It returns a function that makes the training step, and facts worth reporting of it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS, Workload

RATE = 1e-6  # so small that thousands of steps on one batch leave the weights in their range

Step = Callable[[], float]
"""One training step; returns the loss before it."""
Begin = Callable[[], tuple[Step, dict[str, Any]]]


class Missing(Exception):
    """A contender cannot take part on this machine; says why."""


@dataclass(frozen=True)
class Case:
    """A workload under a scheme, and the folder that prepare.py wrote."""

    name: str
    scheme: str
    folder: Path
    threads: int

    @property
    def workload(self) -> Workload:
        return WORKLOADS[self.name]

    @property
    def batch_statistics(self) -> bool:
        return self.workload.statistics == "batch"

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / name) as file:
            return {key: file[key] for key in file.files}

    def batch(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        inputs = self.arrays("batch.npz")
        labels = inputs.pop("target")
        return inputs, labels

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return found

    def trained(self) -> set[str]:
        """The names of the tensors that the scheme trains."""
        return set(self.facts["trained"][self.scheme])


OURS = "pockengine"
# name -> (module, variant)
CONTENDERS = {
    OURS: ("ours", ""),
    "PyTorch eager": ("pytorch", "contiguous"),
    "PyTorch eager, channels last": ("pytorch", "channels_last"),
    "torch.compile": ("pytorch", "compile"),
    "TensorFlow graph": ("tensorflow_graph", ""),
    "JAX jit": ("jax_jit", ""),
}
# what a worker's environment says beside the number of threads
BACKENDS = {"tensorflow_graph": "tensorflow", "jax_jit": "jax"}
