"""Real tasks to evaluate update schemes on: pretrained networks, real data, and a recipe each.

    from benchmarks.tasks import NAMES, load
    task = load("efficientnet-lite0/elpv")

`python -m benchmarks.tasks NAMES` trains the head alone and everything, and prints accuracies. What
a family needs is imported when one of its tasks is loaded.
"""

from importlib import import_module

from benchmarks.tasks.task import Task as Task
from pockengine.errors import InputError

_IMAGES = ("emoji", "elpv", "fashion")
_MODULES = {
    "efficientnet-lite0": ("images", _IMAGES),
    "squeezenet": ("images", _IMAGES),
    "wrist": ("wrist", tuple(map(str, range(1, 11)))),
    "minilm": ("text", ("movies", "tweets", "amazon", "nyt")),
    "resnet": ("small", ("emoji", "elpv")),
    "vit": ("small", ("emoji", "elpv")),
}
NAMES = tuple(f"{family}/{of}" for family, (_, several) in _MODULES.items() for of in several)


def load(name: str) -> Task:
    """The task with this name, one of `NAMES`.

    Packages that it needs are fetched once. Raises AssetError in words when one cannot be had.
    """
    if name not in NAMES:
        raise InputError(f"no task is called {name!r}; there are: {', '.join(NAMES)}.")
    module, _ = _MODULES[name.partition("/")[0]]
    task: Task = import_module(f"benchmarks.tasks.{module}").load(name)
    return task
