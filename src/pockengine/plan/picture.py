"""The timeline of a plan as a picture for a browser: bytes over steps, one area a kind."""

import math
from collections.abc import Mapping, Sequence

from pockengine.plan.planner import KINDS, Kind, Plan
from pockengine.plan.report import LABELS, timeline

COLOURS: dict[Kind, str] = {
    "frozen": "#4e5d6c",
    "trained": "#2f6fab",
    "state": "#7aa6d6",
    "feature": "#5f9ea0",
    "input": "#9a8c98",
    "output": "#c9ada7",
    "saved": "#d1495b",
    "transient": "#edae49",
    "scratch": "#66a182",
}
WIDTH, HEIGHT = 800, 340  # of the areas
LEFT, RIGHT, TOP, BOTTOM = 70, 260, 12, 40  # around them: the axes, the legend
TICKS = 4  # at least, where there is anything to show
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def timeline_svg(plan: Plan, entry: str, top: int | None = None) -> str:
    """The timeline as an SVG document. `top` is the bytes at the upper edge, by default the most
    that is alive in a step; give several pictures the same to compare them.
    """
    live = timeline(plan, entry)
    top = top or most_alive(plan, entry) or 1
    used = [kind for kind in KINDS if any(sizes[kind] for sizes in live)]
    parts = [*_areas(live, used, top), *_legend(live, used), *_axes(top)]
    parts.append(_text(WIDTH / 2, HEIGHT + 32, f"the {len(live)} steps of {entry!r}", "middle"))
    box = f"{-LEFT} {-TOP} {LEFT + WIDTH + RIGHT} {TOP + HEIGHT + BOTTOM}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" '
    return "\n".join([head + 'font-family="sans-serif" font-size="12">', *parts, "</svg>", ""])


def most_alive(plan: Plan, entry: str) -> int:
    """The bytes that are alive in the fullest step."""
    return max((sum(sizes.values()) for sizes in timeline(plan, entry)), default=0)


def _areas(live: Sequence[Mapping[Kind, int]], used: Sequence[Kind], top: int) -> list[str]:
    base, found = [0] * len(live), []
    for kind in used:
        above = [b + sizes[kind] for b, sizes in zip(base, live, strict=True)]
        corners = " ".join([*_corners(above, top), *reversed(_corners(base, top))])
        found.append(f'<polygon fill="{COLOURS[kind]}" points="{corners}"/>')
        base = above
    return found


def _corners(values: Sequence[int], top: int) -> list[str]:
    """The corners of a line with one level part for each value."""
    heights = [HEIGHT * (1 - value / top) for value in values]
    count = len(values)
    return [f"{WIDTH * (i + x) / count:.1f},{y:.1f}" for i, y in enumerate(heights) for x in (0, 1)]


def _legend(live: Sequence[Mapping[Kind, int]], used: Sequence[Kind]) -> list[str]:
    """The kinds in the order in which they lie on each other."""
    found = []
    for row, kind in enumerate(reversed(used)):
        y, most = 18 * row + 12, max(sizes[kind] for sizes in live)
        found.append(
            f'<rect x="{WIDTH + 14}" y="{y - 10}" width="11" height="11" fill="{COLOURS[kind]}"/>'
        )
        found.append(_text(WIDTH + 32, y, f"{LABELS[kind]}, up to {in_units(most)}"))
    return found


def _axes(top: int) -> list[str]:
    """A line at the left and below, and ticks at round numbers of bytes."""
    found = [f'<path d="M0,0 V{HEIGHT} H{WIDTH}" fill="none" stroke="#222"/>']
    each = _round(top / TICKS)
    for number in range(math.floor(top / each) + 1):
        y = HEIGHT * (1 - number * each / top)
        found.append(f'<path d="M-5,{y:.1f} H0" stroke="#222"/>')
        found.append(_text(-9, y + 4, in_units(number * each, top), "end"))
    return found


def _round(least: float) -> float:
    """The largest of 1, 2, 5, 10, 20 ... that is not above a number.

    >>> _round(4.9), _round(0.3), _round(2e6)
    (2.0, 0.2, 2000000.0)
    """
    power = 10.0 ** math.floor(math.log10(least) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= least * (1 + 1e-9))


def in_units(nbytes: float, like: float | None = None) -> str:
    """Three digits and the unit that suits the bytes, or others.

    >>> in_units(1_234_567), in_units(500), in_units(500_000, 2_000_000)
    ('1.23 MB', '500 bytes', '0.5 MB')
    """
    for size, unit in UNITS:
        if (nbytes if like is None else like) >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'
