"""What command lines of benchmarks have in common."""

import argparse
from collections.abc import Collection
from fnmatch import fnmatch


def matching(
    parser: argparse.ArgumentParser, what: str, names: Collection[str], globs: Collection[str]
) -> list[str]:
    """The names that match one of the globs. Where none does, the program ends with an error that
    lists them all.
    """
    found = [name for name in names if any(fnmatch(name, glob) for glob in globs)]
    if not found:
        parser.error(f"no {what} is called {' or '.join(globs)}: {', '.join(names)}")
    return found
