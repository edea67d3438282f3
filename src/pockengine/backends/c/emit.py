"""Writes the C source of a program: one function a step, one exported function an entry point.

    static void train_12(void *ctx, int thread, idx begin, idx end)      items begin..end of step 12
    POCK_EXPORT int pock_train(void *arena, size_t bytes, pk_pool *pool) runs the steps in order
    POCK_EXPORT double pock_train_seconds[]          of each step, added up (timed code)

An entry point returns 0, or the code of what it refused (see STATUS in runtime/session.py). It
checks the arena it is given, calls no allocator, and touches nothing but the arena.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

from pockengine.backends.c.call import WHOLE, Call, block_of
from pockengine.backends.c.calls import Choices, call, candidates, row_length, signature
from pockengine.backends.c.conditions import Condition, conditions
from pockengine.backends.c.loops import Loop
from pockengine.backends.c.riding import Riding, padded
from pockengine.backends.c.syntax import CTYPE, Tables, indented
from pockengine.errors import UnsupportedError
from pockengine.ir.op import Value
from pockengine.ir.schedule import Schedule, Step, storage
from pockengine.passes.fuse import anchor_of, landing_of
from pockengine.plan.planner import EntryPlan, Plan
from pockengine.target import Target

PARTS = 2  # of the source, that may be compiled side by side: the largest entry point, and the rest
SERIAL_US = 4  # microseconds of work below which a step is not worth waking threads for,
FLOPS_PER_US, BYTES_PER_US = 100_000, 20_000  # by what one core does


def with_kernels(
    schedule: Schedule, target: Target, choices: Choices = MappingProxyType({})
) -> Schedule:
    """The schedule with each step's kernel chosen, and its workspace, all threads together.

    Of several kernels it is the one that was measured to be the fastest, else the best guess.
    Rows that only the loop behind the kernel reads are in the workspace, a block of each thread, or
    among the results where the kernel does not compute them block by block.
    """
    steps = (_with_kernel(step, schedule.updates, target, choices) for step in schedule.steps)
    return replace(schedule, steps=tuple(steps))


def _with_kernel(step: Step, updates: Set[Value], target: Target, choices: Choices) -> Step:
    anchor, riding = anchor_of(step.values), Riding.of(step, target.threads)
    floats = target.threads * riding.sums_size + riding.scratch
    if anchor is None:
        return replace(step, scratch=4 * floats)
    options = candidates(anchor, dict.fromkeys(step.reads, "x"), target)
    best = choices.get(signature(anchor))
    chosen = next((option for option in options if option.variant == best), options[0])
    if landing_of(anchor, step.results, updates) is None:
        if chosen.blockwise and chosen.block * target.threads < chosen.items:
            floats += target.threads * _block_floats(chosen, anchor)
        else:
            step = replace(step, results=(anchor, *step.results))
    floats += padded(chosen.shared) + target.threads * padded(chosen.scratch)
    measured = chosen.variant == best
    return replace(step, variant=chosen.variant, measured=measured, scratch=4 * floats)


def _block_floats(call: Call, value: Value) -> int:
    """Floats of the workspace that a block of the rows of `value` takes."""
    return padded(-(-value.type.nbytes * call.block // (4 * call.items)))


def emit(plan: Plan, target: Target, timed: bool = False) -> str:
    """The C source of all entry points of `plan`; `timed` adds up the seconds of each step.

    Raises UnsupportedError listing every value that the C back end cannot compute.
    """
    _refuse_unsupported(plan)
    tables = Tables()
    largest = max(plan.entries, key=lambda name: len(plan.entries[name].schedule.steps))
    bodies = [
        _in_part(0 if name == largest else 1, _Entry(name, plan, target, tables, timed).text())
        for name in plan.entries
    ]
    timing = ["#define POCK_TIMED"] if timed else []
    head = [*timing, '#include "unit.h"', "", *tables.text(), ""]
    tail = [
        f"POCK_EXPORT size_t pock_arena_bytes(void) {{ return {plan.arena_bytes}; }}",
        "POCK_EXPORT size_t pock_pool_bytes(void) { return sizeof(pk_pool); }",
        "POCK_EXPORT int pock_start(pk_pool *pool, int threads) {"
        " return pk_pool_start(pool, threads); }",
        "POCK_EXPORT void pock_stop(pk_pool *pool) { pk_pool_stop(pool); }",
    ]
    return "\n".join([*head, *bodies, _in_part(1, "\n".join(tail)), ""])


def _in_part(part: int, text: str) -> str:
    return f"#if POCK_IN({part})\n{text}\n#endif\n"


def _refuse_unsupported(plan: Plan) -> None:
    steps = (s for entry in plan.entries.values() for s in entry.schedule.steps)
    values = {v for step in steps for v in (*step.values, *step.reads)}
    bad = sorted({f"{v.op} of {v.type}" for v in values if v.dtype not in CTYPE})
    if bad:
        raise UnsupportedError(
            "the C back end computes in float32; these values are of another type: "
            + "; ".join(bad)
        )


@dataclass(frozen=True)
class _Entry:
    """Writes one entry point."""

    name: str
    plan: Plan
    target: Target
    tables: Tables
    timed: bool

    @property
    def entry(self) -> EntryPlan:
        return self.plan.entries[self.name]

    def text(self) -> str:
        functions, calls = [], []
        loss = self.entry.schedule.loss_step()
        guarded = conditions(self.entry.schedule)
        for number, step in enumerate(self.entry.schedule.steps):
            writer = _StepWriter(self, number, step)
            functions += writer.functions()
            launch = writer.launch()
            calls += [f"if (run_{number}) {{", *launch, "}"] if number in guarded else launch
            if self.timed:
                calls.append(f"pk_lap(&clock, &pock_{self.name}_seconds[{number}]);")
            if number == loss:
                where = self.plan.offset(self.name, self.entry.schedule.graph.outputs["loss"])
                calls.append(f"if (!__builtin_isfinite(*(float *)(m + {where}))) return 3;")
        head = f"POCK_EXPORT int pock_{self.name}(void *arena, size_t bytes, pk_pool *pool) {{"
        checks = [
            f"if (bytes != {self.plan.arena_bytes}) return 1;",
            "if ((uintptr_t)arena % 64) return 2;",
            "char *const m = arena;",
            *self._conditions(guarded),
        ]
        if self.timed:
            steps = len(self.entry.schedule.steps)
            functions.append(f"POCK_EXPORT double pock_{self.name}_seconds[{steps}];")
            checks.append("double clock = pk_seconds();")
        return indented([*functions, head, *checks, *calls, "return 0;", "}", ""])

    def _conditions(self, guarded: Mapping[int, Condition]) -> list[str]:
        """Declares for each step that may be left out whether it is to run."""
        gates = list(
            dict.fromkeys(gate for condition in guarded.values() for gate in condition.gates)
        )
        lines = [
            f"const int open_{i} = pk_any(m + {self.plan.offset(self.name, gate)}, "
            f"{gate.type.nbytes});"
            for i, gate in enumerate(gates)
        ]
        for number, condition in guarded.items():
            wanted = [f"open_{gates.index(gate)}" for gate in condition.gates]
            wanted += [f"run_{later}" for later in condition.steps]
            lines.append(f"const int run_{number} = {' | '.join(wanted)};")
        return lines


class _StepWriter:
    """Writes the functions of one step and the lines that launch them."""

    def __init__(self, entry: _Entry, number: int, step: Step) -> None:
        self.entry, self.step, self.number = entry, step, number
        self.function = f"{entry.name}_{number}"
        stored = dict.fromkeys([*step.reads, *map(storage, step.results)])
        self.names = {value: f"v{i}" for i, value in enumerate(stored)}
        self.anchor = anchor_of(step.values)
        self.call = (
            call(self.anchor, self.names, entry.target, step.variant) if self.anchor else None
        )
        self.landing = landing_of(self.anchor, step.results, entry.entry.schedule.updates)
        self.riding = Riding.of(step, entry.target.threads)
        self.loop = self._loop()

    def _loop(self) -> Loop | None:
        rest = [v for v in self.step.values if v is not self.anchor]
        if not rest or not self.step.results:
            return None
        row = row_length(self.anchor) if self.anchor else None
        names = {**self.names, **self.riding.names()}
        if self.anchor is not None:
            names[self.anchor] = "out"
        loop = Loop(self.step, names, self.entry.tables, row, self.anchor)
        return loop if loop.own else None

    # ------------------------------------------------------------------ text

    def functions(self) -> list[str]:
        """The C functions of the step."""
        lines: list[str] = []
        if self.call and self.call.pack_items:
            out = self._out() if self.landing else []
            pack = [*self._workspace(), *out, *self.call.pack]
            lines += self._function(f"{self.function}_pack", pack)
        if self._goes_on:
            lines += self._function(self.function, [*self._workspace(), *self._body()])
        return lines

    def launch(self) -> list[str]:
        """The lines of the entry point that run the step."""
        label = "; ".join(dict.fromkeys(v.source for v in self.step.values if v.source))
        lines = [f"/* {self.number}: {_comment(label)} */"]
        if self.call:
            lines += [
                f"{{ {' '.join(self._pointers())} if (!({c})) return 4; }}"
                for c in self.call.checks
            ]
            lines += self._launch(f"{self.function}_pack", self.call.pack_items)
        if self._goes_on:
            lines += self._launch(self.function, self.riding.parts or self._units)
        if self.riding.parts:
            names = " ".join([*self._pointers(), *self._workspace("0")])
            lines += ["{", names, *self.riding.results(self.names), "}"]
        return [*lines, *map(self._copy, self.step.copies)]

    @property
    def _goes_on(self) -> bool:
        """Whether anything is left to do behind what runs before the first item."""
        return bool((self.call and self.call.body) or self.loop or self.riding.parts)

    @property
    def _items(self) -> int:
        return self.call.items if self.call else self.loop.items if self.loop else 0

    @property
    def _multiple(self) -> int:
        return self.call.multiple if self.call else 1

    @property
    def _units(self) -> int:
        """What threads share: items, or groups of as many as the kernel wants together."""
        return -(-self._items // self._multiple)

    def _copy(self, pair: tuple[Value, Value]) -> str:
        source, leaf = (self.entry.plan.offset(self.entry.name, v) for v in pair)
        return f"memcpy(m + {leaf}, m + {source}, {pair[1].type.nbytes});"

    def _launch(self, function: str, items: int) -> list[str]:
        if not items:
            return []
        if _microseconds(self.step) < SERIAL_US:
            return [f"{function}(m, 0, 0, {items});"]
        return [f"pk_parallel(pool, {function}, m, {items});"]

    def _function(self, name: str, body: list[str]) -> list[str]:
        head = f"static void {name}(void *ctx, int thread, idx begin, idx end) {{"
        return [head, "char *const m = ctx;", *self._pointers(), *body, "}", ""]

    def _pointers(self) -> list[str]:
        plan, entry = self.entry.plan, self.entry.name
        return [
            f"{CTYPE[v.dtype]} *const {name} = ({CTYPE[v.dtype]} *)(m + {plan.offset(entry, v)});"
            for v, name in self.names.items()
        ]

    def _workspace(self, thread: str = "thread") -> list[str]:
        """| shared | work, block_sums, block_rows of thread 0 | ... of thread 1 | ... | parts |"""
        slot = self.entry.entry.scratch[self.number]
        if slot is None:
            return []
        shared, scratch = (self.call.shared, self.call.scratch) if self.call else (0, 0)
        rows = padded(scratch) + self.riding.sums_size
        first, each = padded(shared), rows + self._rows
        parts = first + self.entry.target.threads * each
        return [
            f"float *const shared = (float *)(m + {slot.offset});",
            f"float *const work = shared + {first} + {thread} * (idx){each};",
            f"float *const block_sums = work + {padded(scratch)};",
            f"float *const block_rows = work + {rows};",
            f"float *const parts = shared + {parts};",
        ]

    @property
    def _rows(self) -> int:
        """Floats of a block of the kernel's rows in the workspace of a thread."""
        if not (self.call and self.anchor) or self.landing:
            return 0
        return _block_floats(self.call, self.anchor)

    def _out(self) -> list[str]:
        """Declares `out`, where all rows would start; of those apart there is block b0..b1 only."""
        if not (self.call and self.anchor):
            return []
        ctype = CTYPE[self.anchor.dtype]
        if self.landing:
            return [f"{ctype} *const out = {self.names[storage(self.landing)]};"]
        row = self.anchor.type.nbytes // self.call.items
        place = f"(uintptr_t)block_rows - (uintptr_t)b0 * {row}"
        return [f"{ctype} *const out = ({ctype} *)({place});"]

    def _later(self) -> list[str]:
        """Declares `later`: what the loop reads of as many floats as the kernel computes."""
        if not (self.call and self.anchor and any("later" in line for line in self.call.body)):
            return []
        own = {storage(x) for x in self.anchor.inputs}
        wanted = (self.anchor.type.size, self.anchor.dtype)
        found = [v for v in self.step.reads if (v.type.size, v.dtype) == wanted and v not in own]
        names = ", ".join([*(self.names[v] for v in found), "NULL"])
        return [f"const float *const later[] = {{{names}}};"]

    def _body(self) -> list[str]:
        """The kernel, and the loop behind it, block by block."""
        body, block = self.loop.text() if self.loop else [], WHOLE
        if self.call:
            body, block = [*self._out(), *self._later(), *self.call.body, *body], self.call.block
        elif self.loop and self.riding.parts:
            block = block_of(self.loop.item)
        if self.riding.parts:
            return self.riding.around(self._items, self._multiple, block, body, self.names)
        return [*self._whole_units(), *self._blocks(block, body)]

    def _whole_units(self) -> list[str]:
        """Makes a range of units one of items."""
        if self._multiple == 1:
            return []
        return [
            f"begin *= {self._multiple};",
            f"end = idx_min(end * {self._multiple}, {self._items});",
        ]

    @staticmethod
    def _blocks(block: int, body: list[str]) -> list[str]:
        head = f"for (idx b0 = begin; b0 < end; b0 += {block}) {{"
        return [head, f"const idx b1 = idx_min(b0 + {block}, end);", *body, "}"]


def _microseconds(step: Step) -> float:
    """A rough guess of a step's time on one core."""
    flops = sum(v.flops for v in step.values)
    moved = sum(v.type.nbytes for v in (*step.reads, *step.results))
    return flops / FLOPS_PER_US + moved / BYTES_PER_US


def _comment(text: str) -> str:
    return text.replace("*/", "* /")
