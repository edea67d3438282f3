"""Smartwatch recordings of shoulder exercises: 10 people, 7 exercises, 140 series at 50 Hz."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.data.assets import fetch
from pockengine.data.pickled import load_pickled_npy
from pockengine.data.windows import Floats, Labels
from pockengine.files import write_atomically


@dataclass(frozen=True)
class Recordings:
    """`series[i]` is (time, 6) float32: acceleration and turning rate, each along x, y and z.

    `exercise[i]` indexes `exercises`; `person[i]` is 1 to 10.
    """

    series: tuple[Floats, ...]
    exercise: Labels
    person: Labels
    exercises: tuple[str, ...]


def load_recordings() -> Recordings:
    """Downloads the recordings once (11 MB) and keeps them as a plain `.npz`.

    Raises AssetError, see `pockengine.data.assets.fetch`.
    """
    plain = _plain_file(fetch("watch"))
    with np.load(plain) as file:
        borders = np.cumsum(file["lengths"])[:-1]
        return Recordings(
            series=tuple(np.split(file["samples"], borders)),
            exercise=file["exercise"],
            person=file["person"],
            exercises=tuple(str(name) for name in file["exercises"]),
        )


def _plain_file(pickled: Path) -> Path:
    plain = pickled.with_suffix(".npz")
    if not plain.is_file():
        raw: dict[str, Any] = load_pickled_npy(pickled)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            samples=np.concatenate(raw["X"]).astype(np.float32),
            lengths=np.array([len(series) for series in raw["X"]]),
            exercise=raw["y"].astype(np.int64),
            person=raw["subject"].astype(np.int64),
            exercises=np.array(raw["y_labels"]),
        )
        write_atomically(plain, buffer.getvalue())
    return plain
