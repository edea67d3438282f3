"""`pockengine inspect`"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.cli.options import Config, JobOptions, Json, with_options
from pockengine.compiler import plan_job
from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.text import print_graph
from pockengine.plan.planner import EntryPlan
from pockengine.runtime.artifact import Artifact, open_artifact
from pockengine.runtime.program import FEATURES, Signature

# (entry point, stage) -> what there is after it
Stages = Mapping[tuple[str, str], Graph | EntryPlan]

MEMBERS = {"final": "graph.txt", "plan": "plan.json", "source": "src/program.c"}


@with_options
def inspect(
    options: JobOptions,
    after: Annotated[str | None, typer.Option(help="Print the text of that stage.")] = None,
    entry: Annotated[str, typer.Option(help="The entry point, with --after.")] = "train",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Print what a .pock file holds, or a model after any stage of the pipeline."""
    if Path(options.model).suffix == ".pock":
        _show_artifact(open_artifact(Path(options.model)), after, as_json)
    elif after is None:
        _list_stages(_stages(options), as_json)
    else:
        _show_stage(_stages(options), entry, after, as_json)


def _stages(options: JobOptions) -> Stages:
    job = options.job()
    found: dict[tuple[str, str], Graph | EntryPlan] = {("model", "import"): job.graph}

    def keep(entry: str, stage: str, graph: Graph) -> None:
        found[entry, stage] = graph

    entries = plan_job(job, keep).plan.entries
    found |= {(name, "final"): planned.schedule.graph for name, planned in entries.items()}
    return found | {(name, "plan"): planned for name, planned in entries.items()}


def _list_stages(stages: Stages, as_json: bool) -> None:
    sizes = {f"{entry} {stage}": _size(item) for (entry, stage), item in stages.items()}
    if as_json:
        typer.echo(json.dumps({"stages": sizes}))
        return
    for name, size in sizes.items():
        typer.echo(f"{name:24} {size}")


def _size(item: Graph | EntryPlan) -> str:
    if isinstance(item, Graph):
        return f"{len(item.values())} values"
    return f"{len(item.schedule.steps)} steps"


def _show_stage(stages: Stages, entry: str, after: str, as_json: bool) -> None:
    chosen = "model" if after == "import" else entry
    if (chosen, after) not in stages:
        known = ", ".join(f"{stage} of {name}" for name, stage in stages)
        raise InputError(f"there is no stage {after!r} of {chosen!r}; there are {known}.")
    item = stages[chosen, after]
    _show_text(print_graph(item) if isinstance(item, Graph) else _plan_text(item), as_json)


def _show_text(text: str, as_json: bool) -> None:
    typer.echo(json.dumps({"text": text}) if as_json else text)


def _plan_text(entry: EntryPlan) -> str:
    """One line a step: its operators, and where in the arena its results go.

    Values have the numbers that they have in the text of the stage `final`.
    """
    numbers = {value: i for i, value in enumerate(entry.schedule.graph.values())}
    lines = []
    for number, step in enumerate(entry.schedule.steps):
        names = [type(v.op).__name__ for v in step.values if not isinstance(v.op, Leaf)]
        stored = ", ".join(
            f"%{numbers[v]} {v.type} {slot.kind} at {slot.offset}"
            for v in step.results
            if (slot := entry.slots.get(v))
        )
        kernel = f" [{step.variant}, {how_chosen(step.measured)}]" if step.variant else ""
        lines.append(f"{number:4} {' '.join(names) or 'copy'}{kernel} -> {stored or 'leaves'}")
    return "\n".join(lines)


def how_chosen(measured: bool) -> str:
    return "measured" if measured else "guessed"


def _show_artifact(artifact: Artifact, after: str | None, as_json: bool) -> None:
    if after is None:
        kernels = _kernels(json.loads(artifact.read(MEMBERS["plan"])))
        _show_signature(artifact.manifest.signature, kernels, as_json)
    elif after in MEMBERS:
        _show_text(artifact.read(MEMBERS[after]).decode(), as_json)
    else:
        raise InputError(f"a .pock file keeps the stages {', '.join(MEMBERS)}; got {after!r}.")


def _kernels(plan: Mapping[str, Any]) -> dict[str, int]:
    """How many steps run each kernel of several: `few (measured)` and the like."""
    steps = (step for entry in plan["entries"].values() for step in entry["steps"])
    return dict(Counter(_kernel(step) for step in steps if step["variant"]).most_common())


def _kernel(step: Mapping[str, Any]) -> str:
    return f"{step['variant']} ({how_chosen(step['measured'])})"


def _show_signature(signature: Signature, kernels: Mapping[str, int], as_json: bool) -> None:
    facts = _signature_facts(signature) | {"kernels": kernels}
    if as_json:
        typer.echo(json.dumps(facts))
        return
    size, batch, precision = (facts[key] for key in ("arena_bytes", "batch", "precision"))
    typer.echo(f"one block of {size:,} bytes, batch {batch}, stored as {precision}")
    for name, entry in facts["entries"].items():
        typer.echo(f"{name}: {', '.join(entry['inputs'])} -> {', '.join(entry['outputs'])}")
        typer.echo(f"  {entry['samples']} samples at a time")
    for kind, leaves in facts["leaves"].items():
        typer.echo(f"{len(leaves)} {kind}: {', '.join(leaves)}")
    for kernel, count in kernels.items():
        typer.echo(f"{count} steps run {kernel}")


def _samples(signature: Signature, entry: str) -> int:
    """How many samples an entry point computes at a time."""
    prefix = signature.prefix
    return prefix.samples if prefix and entry == FEATURES else signature.batch


def _signature_facts(signature: Signature) -> dict[str, Any]:
    leaves: dict[str, list[str]] = {}
    for leaf in signature.leaves.values():
        packed = f" in panels of {list(leaf.unpacked)}" if leaf.unpacked else ""
        leaves.setdefault(leaf.kind, []).append(f"{leaf}{packed}")
    entries = {
        name: {
            "inputs": [*map(str, e.inputs)],
            "outputs": [*map(str, e.outputs)],
            "samples": _samples(signature, name),
        }
        for name, e in signature.entries.items()
    }
    return {
        "arena_bytes": signature.arena_bytes,
        "batch": signature.batch * signature.parts,
        "precision": signature.precision,
        "entries": entries,
        "leaves": leaves,
        "memory": dict(signature.memory),
        "scheme": json.loads(signature.scheme) if signature.scheme else None,
    }
