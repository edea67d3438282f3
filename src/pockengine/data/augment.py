"""Light augmentation: each time a sample is met it looks a little different.

What happens to a sample is decided by (seed, epoch, index of the sample) alone: not by its batch,
nor by what was loaded before.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from pockengine.data.base import Array, Inputs
from pockengine.errors import InputError

Augmentation = Callable[[Array, np.random.Generator], Array]
"""Makes another sample, of the same shape, of one sample and random numbers of its own."""


@dataclass(frozen=True)
class Augment:
    """Changes of one image (channels, height, width), or of one signal (channels, time).

    Brightness, contrast and noise are in units of the input as the network takes it: of standard
    deviations where it is standardised. All are off unless given.
    """

    flip: bool = False  # left to right, half of the time
    crop: int = 0  # moved by up to so many pixels along height and width (or time); edges repeat
    brightness: float = 0.0  # at most so much is added to all pixels
    contrast: float = 0.0  # distances from the mean times 1 - contrast to 1 + contrast
    noise: float = 0.0  # standard deviation of normal noise, of each number

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                value = getattr(self, field.name)
                raise InputError(f"Augment takes {field.name} of at least 0, got {value}")

    def __call__(self, sample: Array, rng: np.random.Generator) -> Array:
        """The sample, changed; of the same shape and type. Raises InputError for integers."""
        if sample.dtype.kind != "f" or sample.ndim not in (2, 3):
            came = f"{sample.dtype}{list(sample.shape)}"
            raise InputError(
                f"Augment takes samples (channels, height, width) or (channels, time) of floats, "
                f"got {came}"
            )
        changed = self._moved(sample, rng)
        if self.contrast:
            mean = changed.mean()
            changed = mean + (changed - mean) * rng.uniform(1 - self.contrast, 1 + self.contrast)
        if self.brightness:
            changed = changed + rng.uniform(-self.brightness, self.brightness)
        if self.noise:
            changed = changed + self.noise * rng.standard_normal(sample.shape)
        return changed.astype(sample.dtype)

    def _moved(self, sample: Array, rng: np.random.Generator) -> Array:
        if self.flip and rng.random() < 0.5:
            sample = sample[..., ::-1]
        if not self.crop:
            return sample
        axes = sample.ndim - 1
        padded = np.pad(sample, [(0, 0)] + [(self.crop, self.crop)] * axes, mode="edge")
        starts = rng.integers(0, 2 * self.crop + 1, axes)
        window = [slice(a, a + n) for a, n in zip(starts, sample.shape[1:], strict=True)]
        return padded[(slice(None), *window)]


def augmented(x: Inputs, indices: Array, augment: Augmentation, seed: int, epoch: int) -> Array:
    """The inputs of the samples with these indices, each changed with its own random numbers.

    Raises InputError where a sample is more than one array, and for a change of shape or type.
    """
    if not isinstance(x, np.ndarray):
        raise InputError("augmentation is for samples of one array; these have several inputs")
    changed = np.empty_like(x)
    for row, (sample, index) in enumerate(zip(x, indices, strict=True)):
        after = augment(sample, np.random.default_rng([seed, epoch, int(index)]))
        if after.shape != sample.shape or after.dtype != sample.dtype:
            before, came = (f"{a.dtype}{list(a.shape)}" for a in (sample, after))
            raise InputError(f"augmentation made {came} of a sample {before}")
        changed[row] = after
    return changed
