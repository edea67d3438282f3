"""What a plan costs, as data and as text: categories, timeline, layers.

`pockengine plan` prints `table`, `timeline_text` and `layer_table`; picture.py draws the
timeline for a browser. `to_json` is the table of offsets that goes into an artifact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pockengine.errors import GraphError
from pockengine.ir.graph import Leaf
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, storage
from pockengine.plan.planner import KINDS, PERSISTENT, EntryPlan, Kind, Plan
from pockengine.runtime.program import FEATURES

TRAINING = ("train", "accumulate")  # a step, and its parts before the last
LABELS: dict[Kind, str] = {
    "frozen": "frozen weights",
    "trained": "trained weights",
    "state": "optimizer state",
    "feature": "features",
    "input": "inputs",
    "output": "outputs",
    "saved": "saved activations",
    "transient": "transients",
    "scratch": "workspace",
}
SHADES: dict[Kind, str] = {
    "frozen": "█",
    "trained": "▓",
    "state": "▒",
    "feature": "f",
    "input": "i",
    "output": "o",
    "saved": "S",
    "transient": "·",
    "scratch": "w",
}


def timeline(plan: Plan, entry: str) -> list[dict[Kind, int]]:
    """For each step of an entry point the bytes alive during it, by kind."""
    steps = len(plan.entries[entry].schedule.steps)
    constant = {kind: 0 for kind in KINDS} | persistent_bytes(plan)
    live = [dict(constant) for _ in range(steps)]
    planned = plan.entries[entry]
    for host, guests in _guests(planned).items():
        last_host = {n: v for v in guests for n in _span(planned, v, steps)}
        for number, value in last_host.items():
            live[number][planned.slots[value].kind] += planned.slots[host].nbytes
    for number, slot in enumerate(planned.scratch):
        live[number]["scratch"] += slot.nbytes if slot else 0
    return live


def _guests(entry: EntryPlan) -> dict[Value, list[Value]]:
    guests: dict[Value, list[Value]] = {}
    for value, host in entry.host.items():
        guests.setdefault(host, []).append(value)
    return guests


def _span(entry: EntryPlan, value: Value, steps: int) -> range:
    life = entry.lives[value]
    return range(max(0, life.first), min(life.last + 1, steps))


def persistent_bytes(plan: Plan) -> dict[Kind, int]:
    """Bytes of the persistent region by kind."""
    sizes = dict.fromkeys(PERSISTENT, 0)
    for slot in plan.persistent.values():
        sizes[slot.kind] += slot.nbytes
    return sizes


def peak_by_kind(plan: Plan, entry: str) -> dict[Kind, int]:
    """The bytes of each kind at the fullest step of an entry point."""
    empty = {kind: 0 for kind in KINDS} | persistent_bytes(plan)
    return max(timeline(plan, entry), key=lambda live: sum(live.values()), default=empty)


def training_bytes(plan: Plan) -> int:
    """What training takes, weights included: the most of a step and of its parts."""
    return max(plan.entries[name].end for name in TRAINING if name in plan.entries)


def extra_training_bytes(plan: Plan) -> int:
    """What training takes beyond the weights and what inference needs.

    Raises GraphError when the plan lacks one of the two entry points.
    """
    for name in ("train", "predict"):
        if name not in plan.entries:
            raise GraphError(f"the plan has no entry {name!r}, only {', '.join(plan.entries)}")
    sizes = persistent_bytes(plan)
    weights = sizes["frozen"] + sizes["trained"]
    inference = plan.entries["predict"].end - plan.persistent_bytes
    return training_bytes(plan) - weights - inference


def prefix_samples(plan: Plan, batch: int) -> int | None:
    """How many samples the frozen prefix computes at a time; None where there is none."""
    if FEATURES not in plan.entries:
        return None
    name, few = next(iter(plan.entries[FEATURES].schedule.graph.outputs.items()))
    return few.type.nbytes // (plan.persistent[name].nbytes // batch)


def table(plan: Plan) -> str:
    """The memory table: categories at the fullest step of each entry point, and the totals."""
    columns = {name: peak_by_kind(plan, name) for name in plan.entries}
    rows = [["bytes", *columns]]
    rows += [[LABELS[kind], *(f"{c[kind]:,}" for c in columns.values())] for kind in KINDS]
    needed = {name: sum(sizes.values()) for name, sizes in columns.items()}
    rows.append(["lower bound", *(f"{size:,}" for size in needed.values())])
    reached = {name: plan.entries[name].end for name in plan.entries}
    rows.append(["size reached", *(f"{size:,}" for size in reached.values())])
    ratios = (reached[name] / max(1, needed[name]) for name in needed)
    rows.append(["reached / bound", *(f"{ratio:.3f}" for ratio in ratios)])
    ratio = plan.arena_bytes / max(1, plan.lower_bound)
    return (
        f"{_aligned(rows)}\n"
        f"arena: {plan.arena_bytes:,} bytes; lower bound {plan.lower_bound:,} ({ratio:.3f})\n"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def timeline_text(plan: Plan, entry: str, width: int = 72, height: int = 14) -> str:
    """The timeline as characters: a column for a few steps, a character for a kind."""
    columns = _columns(timeline(plan, entry), width)
    top = max((sum(c.values()) for c in columns), default=0) or 1
    stacks = [_stack(column, top, height) for column in columns]
    lines = []
    for row in reversed(range(height)):
        label = f"{top * (row + 1) / height / 1e6:9.2f} MB "
        lines.append(label + "|" + "".join(stack[row] for stack in stacks))
    used = [k for k in KINDS if any(c[k] for c in columns)]
    legend = "   ".join(f"{SHADES[kind]} {LABELS[kind]}" for kind in used)
    steps = len(plan.entries[entry].schedule.steps)
    lines += [" " * 13 + "'" + "-" * len(columns), f"{'':13} {steps} steps of {entry!r}", legend]
    return "\n".join(lines) + "\n"


def _columns(live: Sequence[Mapping[Kind, int]], width: int) -> list[Mapping[Kind, int]]:
    """At most `width` columns, each the fullest of the steps that it stands for."""
    count = min(width, len(live))
    bins = [live[len(live) * i // count : len(live) * (i + 1) // count] for i in range(count)]
    return [max(group, key=lambda sizes: sum(sizes.values())) for group in bins]


def _stack(sizes: Mapping[Kind, int], top: int, height: int) -> str:
    """The characters of a column from the bottom up."""
    stack, total = "", 0
    for kind in KINDS:
        total += sizes[kind]
        stack += SHADES[kind] * (round(total / top * height) - len(stack))
    return stack.ljust(height)


@dataclass
class Layer:
    """What one layer of the source model costs in a schedule."""

    source: str
    flops: int = 0
    stored: int = 0  # bytes of results that are stored
    leaves: dict[str, int] = field(default_factory=dict)  # bytes of each weight and state it reads

    @property
    def weights(self) -> int:
        return sum(self.leaves.values())


def layers(schedule: Schedule) -> list[Layer]:
    """FLOPs and bytes by layer, in the order in which layers first appear in the schedule."""
    found: dict[str, Layer] = {}
    stored = schedule.producers()
    for value in dict.fromkeys(v for step in schedule.steps for v in step.values):
        layer = found.setdefault(value.source, Layer(value.source))
        layer.flops += value.flops
        layer.stored += value.type.nbytes if value in stored else 0
        for operand in map(storage, value.inputs):
            if isinstance(operand.op, Leaf) and operand not in schedule.graph.inputs:
                layer.leaves[operand.op.name] = operand.type.nbytes
    return list(found.values())


def layer_table(schedule: Schedule) -> str:
    """`layers` as text, with the sums in the last line."""
    rows = [["layer", "MFLOP", "bytes stored", "bytes of weights"]]
    found = layers(schedule)
    weights = {name: size for layer in found for name, size in layer.leaves.items()}
    for layer in found:
        name = layer.source or "(no source)"
        rows.append([name, f"{layer.flops / 1e6:,.2f}", f"{layer.stored:,}", f"{layer.weights:,}"])
    flops, stored = sum(x.flops for x in found), sum(x.stored for x in found)
    rows.append(["total", f"{flops / 1e6:,.2f}", f"{stored:,}", f"{sum(weights.values()):,}"])
    return _aligned(rows) + "\n"


def to_json(plan: Plan) -> dict[str, Any]:
    """The offsets of a plan as plain data; values go by their number in the printed graph."""
    persistent = {
        name: {"offset": slot.offset, "nbytes": slot.nbytes, "kind": slot.kind}
        for name, slot in plan.persistent.items()
    }
    return {
        "arena_bytes": plan.arena_bytes,
        "persistent_bytes": plan.persistent_bytes,
        "lower_bound": plan.lower_bound,
        "persistent": persistent,
        "entries": {name: _entry_json(entry) for name, entry in plan.entries.items()},
    }


def _entry_json(entry: EntryPlan) -> dict[str, Any]:
    numbers = {value: i for i, value in enumerate(entry.schedule.graph.values())}
    steps = [
        {
            "values": [numbers[v] for v in step.values],
            "results": [numbers[v] for v in step.results],
            "copies": [[numbers[source], numbers[leaf]] for source, leaf in step.copies],
            "scratch": [slot.offset, slot.nbytes] if slot else None,
            "variant": step.variant,
            "measured": step.measured,
        }
        for step, slot in zip(entry.schedule.steps, entry.scratch, strict=True)
    ]
    slots = {
        str(numbers[value]): {"offset": slot.offset, "nbytes": slot.nbytes, "kind": slot.kind}
        for value, slot in entry.slots.items()
    }
    return {"largest_live": entry.largest_live, "end": entry.end, "steps": steps, "slots": slots}
