"""What a task is: a pretrained network, a user's data in three parts, and a training recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pockengine.data.base import Dataset
from pockengine.data.splits import split_indices
from pockengine.ir.graph import Graph
from pockengine.optim import Optimizer
from pockengine.runtime.program import Array


@dataclass(frozen=True)
class Recipe:
    """The rate decays to 0 along a cosine, without warming up.

    Found by a few short runs that train everything, judged on validation data: no careful search.
    """

    optimizer: Optimizer
    lr: float
    batch: int
    epochs: int


@dataclass(frozen=True)
class Task:
    """`family` names the network; tasks of one family have graphs of one structure, but for the
    number of classes. Recipes were chosen by validation data, not by test data."""

    name: str
    family: str
    graph: Graph
    train: Dataset
    validation: Dataset
    test: Dataset
    optimizer: Optimizer
    lr: float
    batch: int
    epochs: int

    @staticmethod
    def of(
        name: str, graph: Graph, parts: tuple[Dataset, Dataset, Dataset], recipe: Recipe
    ) -> "Task":
        family = name.partition("/")[0]
        return Task(name, family, graph, *parts, **vars(recipe))


def three_parts(
    labels: Array,
    classes: Sequence[str],
    shares: tuple[float, float],
    groups: Sequence[Any] | Array | None = None,
) -> tuple[Array, Array, Array]:
    """Indices to train on, to validate on and to test on: the last two have these shares.

    Stratified by label, and no group is in two parts; always the same.
    """
    validation, test = shares
    rest, last = split_indices(labels, classes, test, 0, groups)
    inner = None if groups is None else np.asarray(groups)[rest]
    first, second = split_indices(labels[rest], classes, validation / (1 - test), 1, inner)
    return rest[first], rest[second], last
