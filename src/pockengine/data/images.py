"""A folder with a sub-folder of images for each class.

Files are decoded when they are needed, by Pillow. What a folder holds is not trusted: links that
lead out of it, formats that run programs and images that unpack to too many pixels are refused.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pockengine.data.base import Array, Dataset, Inputs, digest
from pockengine.data.labels import checked_classes, class_numbers, told
from pockengine.errors import InputError
from pockengine.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
MOST_PIXELS = 64_000_000  # of one file; it is decoded whole before it is made smaller
Channels = Literal["RGB", "BGR", "grey"]
Fit = Literal["crop", "stretch"]


@dataclass(frozen=True)
class Look:
    """How an image file becomes numbers: f32 (channels, height, width)."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Channels
    fit: Fit
    background: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"images need a size of at least 1, got {self.height}, {self.width}")
        if self.channels not in ("RGB", "BGR", "grey") or self.fit not in ("crop", "stretch"):
            raise InputError(
                "channels are 'RGB', 'BGR' or 'grey', and fit is 'crop' or 'stretch'; got "
                f"{self.channels!r} and {self.fit!r}"
            )
        count = 1 if self.channels == "grey" else 3
        if not all(len(v) in (1, count) for v in (self.mean, self.std)) or min(self.std) <= 0:
            raise InputError(
                f"mean and std are one number, or {count}, with std above 0; got {self.mean} and "
                f"{self.std}"
            )
        if not 0 <= self.background <= 255:
            raise InputError(f"background is a grey from 0 to 255, got {self.background}")

    def read(self, path: Path) -> Array:
        """f32 (channels, height, width). Raises InputError, with the path, for a broken file."""
        pixels = np.asarray(self._sized(decoded(path, self.background)), np.float32) / 255
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        scaled = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def _sized(self, image: "Image") -> "Image":
        image = image.convert("L" if self.channels == "grey" else "RGB")
        size, bilinear = (self.width, self.height), _pil("Image").Resampling.BILINEAR
        if self.fit == "stretch":
            return image.resize(size, bilinear)
        fitted: Image = _pil("ImageOps").fit(image, size, bilinear)
        return fitted


class ImageFolder(Dataset):
    """Images of which each lies, at any depth, in the sub-folder of its class.

    `batch` gives f32 (n, channels, height, width): (value / 255 - mean) / std.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | tuple[int, int],
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        *,
        channels: Channels = "RGB",
        fit: Fit = "crop",
        background: int = 255,
        classes: Sequence[str] = (),
    ) -> None:
        """`size` is (height, width), or one number for both; `fit` cuts off what does not fit, or
        stretches. What is transparent shows a `background` of this grey, 0 to 255. `mean` and `std`
        are in the order of `channels`. `classes`, such as another folder's, fixes their order.

        Raises InputError for a folder with no images, or with one class where none are given.
        """
        _pil("Image")
        self.path = Path(path)
        height, width = (size, size) if isinstance(size, int) else size
        self.look = Look(height, width, _numbers(mean), _numbers(std), channels, fit, background)
        folders = _class_folders(self.path, checked_classes(classes))
        files = [(file, folder.name) for folder in folders for file in _images(self.path, folder)]
        self.files = tuple(file for file, _ in files)
        self.labels, self.classes = class_numbers([name for _, name in files], classes)
        stats = [file.stat() for file in self.files]
        self._stats = [(stat.st_size, stat.st_mtime_ns) for stat in stats]

    def __len__(self) -> int:
        return len(self.files)

    def _load(self, indices: Array) -> Inputs:
        return np.stack([self.look.read(self.files[i]) for i in indices])

    def _ids(self, indices: Array) -> list[str]:
        """A file's name, with a hash of its size, its time and how it is read."""
        return [f"{self._name(i)}@{digest(*self._facts(i), str(self.look))}" for i in indices]

    def fingerprint(self) -> str:
        """A hash of the files' names, sizes and times of change, and of how they are read: not of
        their bytes, so a file changed within its size and time is not noticed."""
        facts = [fact for i in range(len(self)) for fact in self._facts(i)]
        return digest(str(self.look), *facts, *self.classes)

    def _name(self, index: int) -> str:
        return self.files[index].relative_to(self.path).as_posix()

    def _facts(self, index: int) -> tuple[str, str]:
        return self._name(index), str(self._stats[index])


def decoded(path: Path, background: int = 255) -> "Image":
    """The image, upright, of 8 bits a channel and without transparency.

    Raises InputError, with the path, for a file that is broken, too large or of another format.
    """
    pillow, ops = _pil("Image"), _pil("ImageOps")
    try:
        with pillow.open(path, formats=list(FORMATS)) as image:
            _check_pixels(*image.size)
            return _opaque(_eight_bits(ops.exif_transpose(image)), background)
    except Exception as error:  # decoders raise nearly anything for damaged files
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are over the {MOST_PIXELS // 10**6} million that are read; "
            "make it smaller"
        )


def _eight_bits(image: "Image") -> "Image":
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32) / 257
        shrunk: Image = _pil("Image").fromarray(levels.round().astype(np.uint8))
        return shrunk
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no fixed range; save it with 8 bits")
    return image


def _opaque(image: "Image", background: int) -> "Image":
    if not image.has_transparency_data:
        return image.copy() if image.mode in ("L", "RGB") else image.convert("RGB")
    image = image.convert("RGBA")
    ground = _pil("Image").new("RGBA", image.size, (background,) * 3 + (255,))
    blended: Image = _pil("Image").alpha_composite(ground, image).convert("RGB")
    return blended


def _class_folders(path: Path, classes: Sequence[str]) -> list[Path]:
    """The sub-folders in order. Raises InputError where they are not two, or not the classes."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder; expected one with a sub-folder for each class")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = [folder.name for folder in folders]
    if not folders:
        raise InputError(f"{path} has no sub-folders; put the images of each class into one")
    if not classes and len(folders) == 1:
        raise InputError(
            f"{path} has images of one class only, {names[0]!r}; there is nothing to tell apart"
        )
    unknown = [name for name in names if name not in classes]
    if classes and unknown:
        raise InputError(f"{path} has folders {told(unknown)}; the classes are {told(classes)}")
    missing = [name for name in classes if name not in names]
    if missing:
        warnings.warn(f"{path} has no images of the classes {told(missing)}", stacklevel=4)
    return folders


def _images(root: Path, folder: Path) -> list[Path]:
    """The image files below a class's folder, in order. Raises InputError where there are none."""
    inside = root.resolve()
    entries = sorted([folder, *folder.rglob("*")])
    for entry in entries:
        if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
            raise InputError(f"{entry} is a link out of {root}; it is not followed")
    files = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        raise InputError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
    if len(images) < len(files):
        others = [file.name for file in files if file not in set(images)]
        warnings.warn(f"{folder}: left out, as no images: {told(others, 3)}", stacklevel=4)
    return images


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, int | float) else tuple(map(float, given))


def _pil(name: str) -> Any:
    return require(f"PIL.{name}", "Pillow", "data", "a folder of images")
