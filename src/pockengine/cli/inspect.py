"""`pockengine inspect`"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.cli.options import Config, JobOptions, Json, job_verb
from pockengine.compiler import build_graphs
from pockengine.errors import InputError
from pockengine.ir.graph import Graph
from pockengine.ir.text import print_graph
from pockengine.runtime.artifact import load_program
from pockengine.runtime.program import Program, Signature

Stages = Mapping[tuple[str, str], Graph]  # (entry point, stage) -> the graph after it


@job_verb
def inspect(
    options: JobOptions,
    after: Annotated[str | None, typer.Option(help="Print the graph as it is then.")] = None,
    entry: Annotated[str, typer.Option(help="The entry point, with --after.")] = "train",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Print what a .pock file holds, or a model's graph after any stage of the pipeline."""
    if Path(options.model).suffix == ".pock":
        _show_program(load_program(Path(options.model)), as_json)
    elif after is None:
        _list_stages(_stages(options), as_json)
    else:
        _show_graph(_stages(options), entry, after, as_json)


def _stages(options: JobOptions) -> Stages:
    job = options.job()
    found: dict[tuple[str, str], Graph] = {("model", "import"): job.graph}

    def keep(entry: str, stage: str, graph: Graph) -> None:
        found[entry, stage] = graph

    graphs, _ = build_graphs(job, keep)
    return found | {(entry, "final"): graph for entry, graph in graphs.items()}


def _list_stages(stages: Stages, as_json: bool) -> None:
    sizes = {f"{entry} {stage}": len(graph.values()) for (entry, stage), graph in stages.items()}
    if as_json:
        typer.echo(json.dumps({"values_after": sizes}))
        return
    for name, size in sizes.items():
        typer.echo(f"{name:24} {size:6} values")


def _show_graph(stages: Stages, entry: str, after: str, as_json: bool) -> None:
    chosen = "model" if after == "import" else entry
    if (chosen, after) not in stages:
        known = ", ".join(f"{stage} of {name}" for name, stage in stages)
        raise InputError(f"there is no stage {after!r} of {chosen!r}; there are {known}.")
    text = print_graph(stages[chosen, after])
    typer.echo(json.dumps({"entry": chosen, "after": after, "graph": text}) if as_json else text)


def _show_program(program: Program, as_json: bool) -> None:
    facts = _program_facts(program.signature)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"one block of {facts['arena_bytes']:,} bytes, batch {facts['batch']}")
    for name, entry in facts["entries"].items():
        typer.echo(f"{name}: {', '.join(entry['inputs'])} -> {', '.join(entry['outputs'])}")
    for kind, leaves in facts["leaves"].items():
        typer.echo(f"{len(leaves)} {kind}: {', '.join(leaves)}")


def _program_facts(signature: Signature) -> dict[str, Any]:
    leaves: dict[str, list[str]] = {}
    for leaf in signature.leaves.values():
        leaves.setdefault(leaf.kind, []).append(str(leaf))
    entries = {
        name: {"inputs": [*map(str, e.inputs)], "outputs": [*map(str, e.outputs)]}
        for name, e in signature.entries.items()
    }
    return {
        "arena_bytes": signature.arena_bytes,
        "batch": signature.batch,
        "entries": entries,
        "leaves": leaves,
        "memory": dict(signature.memory),
        "scheme": json.loads(signature.scheme) if signature.scheme else None,
    }
