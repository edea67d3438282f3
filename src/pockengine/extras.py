"""Packages that only some uses need, imported when they are."""

from importlib import import_module
from typing import Any

from pockengine.errors import PackageMissingError


def require(module: str, package: str, extra: str, what: str) -> Any:
    """The module. Raises PackageMissingError, which says what needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise PackageMissingError(
            f"{what} needs {package}; pip install 'pockengine[{extra}]'"
        ) from error
