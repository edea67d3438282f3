"""From the path of a user's samples to a data set that fits the model's inputs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.data.dataset import Dataset, as_dataset
from pockengine.data.labels import told
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder with a sub-folder of images for each class, an .npz with x and y, or a "
        ".csv or .jsonl of texts and labels."
    ),
]


@dataclass(frozen=True)
class Reading:
    """How files become a model's inputs, beside what the model itself says."""

    validation: Annotated[
        Path | None, typer.Option(help="Samples to judge by; by default a part is held out.")
    ] = None
    mean: Annotated[
        str, typer.Option(help="Of images scaled to 0..1: one number, or one a channel.")
    ] = "0.5"
    std: Annotated[
        str, typer.Option(help="Of images scaled to 0..1: one number, or one a channel.")
    ] = "0.5"
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer.json of a text model.")] = (
        None
    )
    columns: Annotated[str, typer.Option(help="The columns of a table: TEXT,LABEL.")] = "text,label"

    def sets(self, path: Path, graph: Graph) -> tuple[Dataset, Dataset | None]:
        """The samples at a path, and those to judge by, of the same classes. Raises InputError."""
        data = self._load(path, graph)
        if self.validation is None:
            return data, None
        judged = self._load(self.validation, graph, data.classes)
        if judged.classes != data.classes:
            raise InputError(
                f"{self.validation} has the classes {told(judged.classes)}, {path} has "
                f"{told(data.classes)}; they must be the same, in the same order"
            )
        return data, judged

    def _load(self, path: Path, graph: Graph, classes: tuple[str, ...] = ()) -> Dataset:
        """The samples in the size that the model takes."""
        inputs = graph.leaves(Input)
        known: dict[str, Any] = {"classes": classes} if classes else {}
        if path.is_dir():
            return as_dataset(path, **known, **self._of_images([v.shape for v in inputs.values()]))
        if path.suffix in (".csv", ".jsonl"):
            shapes = {name: v.shape for name, v in inputs.items()}
            return as_dataset(path, **known, **self._of_texts(path, shapes))
        return as_dataset(path)

    def _of_images(self, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
            raise InputError(
                "a folder of images is for models that take one batch of them, (batch, 1 or 3, "
                f"height, width); this one takes {_words(shapes)}; give an .npz"
            )
        _, channels, height, width = shapes[0]
        return {
            "size": (height, width),
            "channels": "grey" if channels == 1 else "RGB",
            "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std),
        }

    def _of_texts(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        text, _, label = self.columns.partition(",")
        if self.tokenizer is None:
            raise InputError(f"{path} is a table of texts; give --tokenizer tokenizer.json too")
        if not label or any(len(shape) != 2 for shape in shapes.values()):
            raise InputError(
                "texts need --columns TEXT,LABEL and a model that takes numbers of tokens, "
                f"(batch, length); got {self.columns!r} and {_words(shapes.values())}"
            )
        length = next(iter(shapes.values()))[1]
        return {
            "tokenizer": self.tokenizer,
            "length": length,
            "text": text,
            "label": label,
            "inputs": tuple(shapes),
        }


def _words(shapes: Iterable[tuple[int, ...]]) -> str:
    """Shapes of inputs for people: the first axis is the samples."""
    return ", ".join(f"({', '.join(['batch', *map(str, shape[1:])])})" for shape in shapes)


def _numbers(option: str, words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError as error:
        raise InputError(
            f"{option} takes numbers such as 0.485,0.456,0.406; got {words!r}"
        ) from error
