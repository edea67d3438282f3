"""Block sizes of the kernel library, and the scratch each kernel needs, in floats.

The block sizes reach the kernels as macros, so that the planner and the kernels agree by
construction. They are chosen for a first cache of 32 KiB or more and a second of 512 KiB or more.
"""

from __future__ import annotations

from pockengine.target import Target

KC = 384  # rows of a packed panel that one register tile passes over at once
TN_KC = 256  # the same for products with A transposed,
TN_NC = 512  # and the columns of B packed at once; half the rows where they are more than half
TN_LATER = 32768  # floats of an array that are fetched for what follows a product
CONV_K = 640  # values gathered for one pixel at once
CONV_TAPS = 64  # kernel positions gathered at once
CONV_DW_M = 256  # rows of a convolution's weight gradient computed at once
WINOGRAD_TILES = 56  # tiles of an output computed at once
WINOGRAD_C = 128  # input channels whose weights are transformed at once, for few tiles
WINOGRAD_APART = 16  # floats between the matrices of two points
WINOGRAD_DW_TILES = 32  # tiles of a weight gradient transformed at once,
WINOGRAD_DW_C = 32  # of so many channels
WINOGRAD_DW_O = 64  # and outputs


def macros(target: Target) -> dict[str, int]:
    """The macros that kernels.c is compiled with."""
    return {
        "POCK_VW": target.vector_width,
        "POCK_MR": target.mr,
        "POCK_KC": KC,
        "POCK_TN_KC": TN_KC,
        "POCK_TN_NC": TN_NC,
        "POCK_TN_LATER": TN_LATER,
        "POCK_WINOGRAD_TILES": WINOGRAD_TILES,
        "POCK_WINOGRAD_C": WINOGRAD_C,
        "POCK_WINOGRAD_APART": WINOGRAD_APART,
        "POCK_WINOGRAD_DW_TILES": WINOGRAD_DW_TILES,
        "POCK_WINOGRAD_DW_C": WINOGRAD_DW_C,
        "POCK_WINOGRAD_DW_O": WINOGRAD_DW_O,
        "POCK_CONV_K": CONV_K,
        "POCK_CONV_TAPS": CONV_TAPS,
        "POCK_CONV_DW_M": CONV_DW_M,
        **({"POCK_BF16_DOTS": 1} if target.bf16_dots else {}),
    }


def panels(columns: int, target: Target) -> int:
    """Panels of a packed matrix with that many columns."""
    return -(-columns // target.nr)


def whole_vectors(columns: int, target: Target) -> int:
    """That many columns, and what fills up the last vector."""
    return -(-columns // target.vector_width) * target.vector_width


def packed_size(rows: int, columns: int, target: Target) -> int:
    """Floats of a matrix [rows, columns] packed by pk_pack_b."""
    return panels(columns, target) * rows * target.nr


def conv_packed_size(taps: int, c: int, o: int, groups: int, target: Target) -> int:
    """Floats of a weight [taps, c / groups, o] packed by pk_conv_pack.

    For pk_conv_pack_t swap c and o.
    """
    return groups * packed_size(taps * c // groups, o // groups, target)


def gemm_tn_scratch(columns: int, target: Target, depth: int = TN_KC) -> int:
    """Floats of scratch for pk_gemm_tn with N = columns and K = depth, or any K."""
    rows = TN_KC // 2 if columns > TN_NC // 2 else TN_KC
    return TN_KC * target.mr + packed_size(min(depth, rows), min(columns, TN_NC), target)


def gemm_tn_mixed_scratch(wide_a: int, wide_b: int, columns: int, target: Target) -> int:
    """Floats of scratch for pk_gemm_tn_mixed with N = columns; the first two are the columns of the
    operands in bf16.
    """
    wide = min(wide_a, TN_KC) + min(wide_b, TN_NC)
    return TN_KC * wide + gemm_tn_scratch(columns, target)


def conv_rows_scratch(taps: int, c: int, groups: int, target: Target) -> int:
    """Floats of scratch for pk_conv_rows."""
    return 8 * target.mr * _gathered(taps, c // groups)


def conv_dx_scratch(taps: int, c: int, o: int, groups: int, target: Target) -> int:
    """Floats of scratch for pk_conv_dx_rows."""
    return 8 * target.mr * (c // groups + _gathered(taps, o // groups))


def conv_dw_scratch(o: int, groups: int, target: Target) -> int:
    """Floats of scratch for pk_conv_dw."""
    return TN_KC * CONV_DW_M + gemm_tn_scratch(o // groups, target)


def conv_lines_scratch(ow: int, stride: int, kh: int, kw: int, c: int) -> int:
    """Floats of scratch for pk_conv_lines: the input lines that one output line meets."""
    return kh * ((ow - 1) * stride + kw) * c


def winograd_packed_size(m: int, c: int, o: int, target: Target) -> int:
    """Floats of a weight [9, c, o] packed by pk_winograd_pack for tiles of m x m."""
    return (m + 2) ** 2 * (packed_size(c, o, target) + WINOGRAD_APART)


def winograd_scratch(m: int, c: int, o: int, target: Target) -> int:
    """Floats of scratch for pk_winograd_rows."""
    c, o = whole_vectors(c, target), whole_vectors(o, target)
    return (m + 2) ** 2 * (c + WINOGRAD_TILES * (c + o) + 2 * WINOGRAD_APART)


def winograd_panels_scratch(m: int, tiles: int, c: int, target: Target) -> int:
    """Floats of scratch for pk_winograd_panels."""
    c = whole_vectors(c, target)
    floats = c + tiles * (c + target.nr) + WINOGRAD_C * target.nr + 3 * WINOGRAD_APART
    return (m + 2) ** 2 * floats


def winograd_dw_blocks(c: int, o: int) -> int:
    """Blocks that pk_winograd_dw divides a weight gradient into."""
    return -(-c // WINOGRAD_DW_C) * -(-o // WINOGRAD_DW_O)


def winograd_dw_scratch(m: int, target: Target) -> int:
    """Floats of scratch for pk_winograd_dw."""
    tiles, c, o = WINOGRAD_DW_TILES, WINOGRAD_DW_C, WINOGRAD_DW_O
    floats = c + tiles * (c + o) + c * o + 3 * WINOGRAD_APART
    return (m + 2) ** 2 * floats + gemm_tn_scratch(o, target)


def _gathered(taps: int, channels: int) -> int:
    """Floats gathered for one pixel at once: taps in even chunks of about CONV_K values."""
    chunks = -(-taps * channels // CONV_K)
    return max(1, min(CONV_TAPS, -(-taps // chunks))) * channels
