"""Photos and drawings with their labels, decoded once into one array of bytes a data set.

The pixels are kept as .npy in the cache folder and mapped, so that processes share them.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.fetch import PACKAGES, fetch
from benchmarks.tasks.task import three_parts
from pockengine.data.base import digest
from pockengine.files import cache_dir, write_atomically
from pockengine.runtime.program import Array

SIDE = 128
EMOJI_CLASSES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_COUNTS = (1000, 500, 1000)  # to train on, to validate on, to test on


@dataclass(frozen=True)
class Images:
    """Pixels u8[n, 128, 128, 3] (RGB), labels i64[n], and who is in which part.

    `parts` are indices to train on, to validate on and to test on; `name` says which pixels.
    """

    name: str
    pixels: Array
    labels: Array
    classes: tuple[str, ...]
    parts: tuple[Array, Array, Array]


def emoji() -> Images:
    """2,500 emoji of seven categories as two vendors draw them; an emoji is in one part only."""
    text = (fetch("emoji-google") / "package" / "emoji.json").read_text(encoding="utf-8")
    entries = [entry for entry in json.loads(text) if entry["category"] in EMOJI_CLASSES]
    files = [
        fetch(f"emoji-{vendor}") / "package" / "img" / vendor / "64" / entry["image"]
        for vendor in ("google", "twitter")
        for entry in entries
    ]
    labels = np.array([EMOJI_CLASSES.index(entry["category"]) for entry in entries] * 2)
    subjects = np.tile(np.arange(len(entries)), 2)
    parts = three_parts(labels, EMOJI_CLASSES, (0.2, 0.3), subjects)
    return _images("emoji", _read(files), labels, EMOJI_CLASSES, parts)


def elpv() -> Images:
    """2,223 solar cells, photographed by their own light: those surely whole or surely broken."""
    folder = fetch("elpv") / "elpv_dataset" / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    sure = [(folder / path, int(float(odds))) for path, odds, _ in rows if float(odds) in (0, 1)]
    labels = np.array([label for _, label in sure])
    classes = ("whole", "broken")
    parts = three_parts(labels, classes, (0.25, 0.3))
    return _images("elpv", _read(path for path, _ in sure), labels, classes, parts)


def fashion() -> Images:
    """Fashion-MNIST: its first 1,000 + 500 for training, and the first 1,000 to test on."""
    learn, judge = FASHION_COUNTS[0] + FASHION_COUNTS[1], FASHION_COUNTS[2]
    parts = [
        [array[:n] for array in whole_fashion(p)] for p, n in (("train", learn), ("t10k", judge))
    ]
    numbers = np.concatenate([labels for _, labels in parts])
    first, second, third = np.split(np.arange(learn + judge), (FASHION_COUNTS[0], learn))
    decoded = (Image.fromarray(image) for pixels, _ in parts for image in pixels)
    return _images("fashion", decoded, numbers, FASHION_CLASSES, (first, second, third))


def whole_fashion(part: str) -> tuple[Array, Array]:
    """All of Fashion-MNIST's "train" or "t10k": u8[n, 28, 28], and labels i64[n]."""
    folder = fetch("fashion") / "usr" / "share" / "datasets" / "fashion-mnist"
    pixels = _idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return pixels, _idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)


SETS: dict[str, Callable[[], Images]] = {"emoji": emoji, "elpv": elpv, "fashion": fashion}


def _images(
    name: str,
    pictures: Iterable[Image.Image],
    labels: Array,
    classes: tuple[str, ...],
    parts: tuple[Array, Array, Array],
) -> Images:
    hashes = [p.sha256 for key, p in PACKAGES.items() if key.partition("-")[0] == name]
    full_name = f"{name}-{digest(str(SIDE), *hashes)[:16]}"
    path = cache_dir() / "tasks" / f"{full_name}.npy"
    if not path.is_file():
        buffer = io.BytesIO()
        np.save(buffer, np.stack([_square(picture) for picture in pictures]))
        write_atomically(path, buffer.getvalue())
    return Images(full_name, np.load(path, mmap_mode="r"), labels, classes, parts)


def _read(paths: Iterable[Path]) -> Iterable[Image.Image]:
    for path in paths:
        with Image.open(path) as picture:
            yield picture


def _square(picture: Image.Image) -> Array:
    """u8[128, 128, 3]; what is transparent becomes white."""
    if picture.mode in ("P", "LA", "RGBA"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _idx(path: Path, header: int) -> Array:
    """The bytes after the header of a compressed file of MNIST's format."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
