"""The memory of a program: one block, zero at first."""

import mmap

import numpy as np

from pockengine.errors import MemoryBudgetError
from pockengine.runtime.program import Array


def new_arena(size: int) -> Array:
    """Zeros at an address that every vector instruction accepts; pages count once they are used."""
    try:
        memory = mmap.mmap(-1, max(size, 1))
    except (OSError, OverflowError, MemoryError) as error:
        raise MemoryBudgetError(
            f"the program takes {size:,} bytes, which this machine does not give ({error}); "
            "compile for a smaller batch, or train fewer tensors"
        ) from error
    return np.frombuffer(memory, np.uint8)[:size]
