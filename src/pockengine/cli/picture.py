"""The memory of one training step as a picture: time to the right, addresses upwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pockengine.errors import InputError


@dataclass(frozen=True)
class Block:
    """`size` bytes at `offset`, in use from step `first` to step `last` (both included)."""

    kind: str
    offset: int
    size: int
    first: int
    last: int


COLOURS = {
    "frozen weights": "#9aa5b1",
    "trained weights": "#3d6fb4",
    "optimizer state": "#7a4fa3",
    "saved activations": "#d9822b",
    "transients": "#4f9d69",
}


def text_picture(blocks: Sequence[Block], columns: int = 72, rows: int = 16) -> str:
    """A grid of letters, one for each kind; a blank is memory not in use at that time.

    >>> print(text_picture([Block("transients", 0, 8, 0, 1), Block("saved", 8, 8, 1, 3)], 4, 2))
     sss
    tt
    t transients, s saved
    """
    height = max(block.offset + block.size for block in blocks)
    steps = 1 + max(block.last for block in blocks)
    columns = min(columns, steps)
    grid = [[" "] * columns for _ in range(rows)]
    for block in blocks:
        low, high = _span(block.offset, block.offset + block.size, height, rows)
        left, right = _span(block.first, block.last + 1, steps, columns)
        for row in range(low, high):
            grid[row][left:right] = block.kind[0] * (right - left)
    legend = ", ".join(f"{kind[0]} {kind}" for kind in dict.fromkeys(b.kind for b in blocks))
    return "\n".join([*("".join(row).rstrip() for row in reversed(grid)), legend])


def _span(start: int, stop: int, whole: int, cells: int) -> tuple[int, int]:
    """The cells whose middle lies between start and stop, of `cells` that share `whole`."""
    first = round(start * cells / whole)
    return first, max(first + (stop > start), round(stop * cells / whole)) if first < cells else first


def save_picture(blocks: Sequence[Block], path: Path) -> None:
    """Draws the blocks into a .png or .svg file.

    Raises InputError when matplotlib is not installed or the kind of file is another.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"a picture is a .png or .svg file, got {path}.")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional, heavy dependency
        from matplotlib.patches import Patch  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f"drawing {path} needs matplotlib: run `pip install pockengine[plot]`."
        ) from error
    axes = Figure(figsize=(10, 5), layout="constrained").subplots()
    for block in blocks:
        width, height = block.last + 1 - block.first, block.size / 2**20
        corner = (block.first, block.offset / 2**20)
        colour = COLOURS.get(block.kind, "#888888")
        axes.add_patch(
            _rectangle(corner, width, height, facecolor=colour, edgecolor="white", linewidth=0.2)
        )
    axes.autoscale_view()
    axes.set_xlabel("step of the program")
    axes.set_ylabel("MiB")
    kinds = dict.fromkeys(block.kind for block in blocks)
    axes.legend(handles=[Patch(color=COLOURS.get(k, "#888888"), label=k) for k in kinds])
    axes.figure.savefig(path)
