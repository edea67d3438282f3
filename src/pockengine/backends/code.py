"""What a back end makes of a plan."""

from collections.abc import Callable
from dataclasses import dataclass

from pockengine.runtime.program import Executable


@dataclass(frozen=True)
class Code:
    """`start(threads)` gives something to run; a .pock file keeps `source` and `library`."""

    start: Callable[[int], Executable]
    source: str = ""
    library: bytes = b""
