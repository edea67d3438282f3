"""The demo's task: which windows a person gives, and how the base network is adapted to them.

Shared by the demo and by tools/make_wrist_base.py, so that both mean the same by every number.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pockengine.data.watch import Recordings
from pockengine.data.windows import Floats, Labels, cut_windows, split_in_time, standardise

WINDOW, HOP = 128, 64  # samples at 50 Hz: 2.56 s, overlapping by half
ADAPT_SHARE = 0.4
BATCH, EPOCHS, LEARNING_RATE = 16, 20, 2e-3
SPARSE = {
    "head.*": 1.0,
    "blocks.3.conv.bias": 1.0,
    "blocks.4.conv.bias": 1.0,
    "blocks.3.conv.weight": 0.5,
    "blocks.4.conv.weight": 0.5,
}


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each of the 6 channels over the people trained on."""

    mean: Floats
    deviation: Floats


@dataclass(frozen=True)
class Person:
    """Windows (count, 6, 128) to adapt on and to be judged by, with their exercise numbers."""

    adapt_x: Floats
    adapt_y: Labels
    test_x: Floats
    test_y: Labels


def scale_without(recordings: Recordings, person: int) -> Scale:
    """The scale of everybody but one person, who must not be looked at."""
    others = np.flatnonzero(recordings.person != person)
    samples = np.concatenate([recordings.series[i] for i in others]).astype(np.float64)
    return Scale(samples.mean(0).astype(np.float32), samples.std(0).astype(np.float32))


def windows_of(
    series: Iterable[Floats], exercises: Iterable[int], scale: Scale
) -> tuple[Floats, Labels]:
    """All windows of all series, each labelled with its series' exercise."""
    cut = [cut_windows(standardise(s, scale.mean, scale.deviation), WINDOW, HOP) for s in series]
    labels = [np.full(len(c), e, np.int64) for c, e in zip(cut, exercises, strict=True)]
    return np.concatenate(cut), np.concatenate(labels)


def person_windows(recordings: Recordings, person: int, scale: Scale) -> Person:
    """The first 40 % of each of the person's series to adapt on, the rest to be judged by."""
    own = np.flatnonzero(recordings.person == person)
    exercises = [int(recordings.exercise[i]) for i in own]
    parts = [split_in_time(recordings.series[i], ADAPT_SHARE) for i in own]
    adapt = windows_of((first for first, _ in parts), exercises, scale)
    test = windows_of((rest for _, rest in parts), exercises, scale)
    return Person(*adapt, *test)
