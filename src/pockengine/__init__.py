"""pockengine fine-tunes deep networks on the device that uses them.

    foreign model -> Graph -> training Graph -> Plan -> native code -> Session

A model is imported, an update scheme says what to train, and `compile` derives the whole training
step, plans every byte of it and makes native code, which a session runs. Names are loaded when they
are first used, so that a device that only runs programs needs NumPy and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pockengine.analysis.contribution import analyze as analyze
    from pockengine.analysis.result import Analysis as Analysis
    from pockengine.autodiff.objective import L1 as L1
    from pockengine.autodiff.objective import MSE as MSE
    from pockengine.autodiff.objective import BCEWithLogits as BCEWithLogits
    from pockengine.autodiff.objective import CrossEntropy as CrossEntropy
    from pockengine.autodiff.objective import Huber as Huber
    from pockengine.autodiff.objective import OwnOutput as OwnOutput
    from pockengine.compiler import compile as compile
    from pockengine.data.dataset import ArrayDataset as ArrayDataset
    from pockengine.data.dataset import Dataset as Dataset
    from pockengine.data.dataset import ImageFolder as ImageFolder
    from pockengine.data.dataset import TextTable as TextTable
    from pockengine.data.loader import Loader as Loader
    from pockengine.errors import PockError as PockError
    from pockengine.frontends.onnx import check_onnx as check_onnx
    from pockengine.frontends.onnx import import_onnx as import_onnx
    from pockengine.frontends.torch import check_torch as check_torch
    from pockengine.frontends.torch import import_torch as import_torch
    from pockengine.optim import SGD as SGD
    from pockengine.optim import Adam as Adam
    from pockengine.optim import AdamW as AdamW
    from pockengine.optim import ClipNorm as ClipNorm
    from pockengine.optim import ClipValue as ClipValue
    from pockengine.optim import Group as Group
    from pockengine.optim import Lion as Lion
    from pockengine.runtime.features import FeatureCache as FeatureCache
    from pockengine.runtime.session import Session as Session
    from pockengine.runtime.trainer import Trainer as Trainer
    from pockengine.scheme import UpdateScheme as UpdateScheme
    from pockengine.target import Target as Target

_HOMES = {
    "analysis.contribution": ("analyze",),
    "analysis.result": ("Analysis",),
    "autodiff.objective": ("L1", "MSE", "BCEWithLogits", "CrossEntropy", "Huber", "OwnOutput"),
    "compiler": ("compile",),
    "data.dataset": ("ArrayDataset", "Dataset", "ImageFolder", "TextTable"),
    "data.loader": ("Loader",),
    "errors": ("PockError",),
    "frontends.onnx": ("check_onnx", "import_onnx"),
    "frontends.torch": ("check_torch", "import_torch"),
    "optim": ("SGD", "Adam", "AdamW", "ClipNorm", "ClipValue", "Group", "Lion"),
    "runtime.features": ("FeatureCache",),
    "runtime.session": ("Session",),
    "runtime.trainer": ("Trainer",),
    "scheme": ("UpdateScheme",),
    "target": ("Target",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"pockengine has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"pockengine.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
