"""`pockengine check`"""

import json
from collections import Counter
from dataclasses import asdict

import typer

from pockengine.cli.load import find_model
from pockengine.cli.options import Config, Dim, Json, Model
from pockengine.frontends.support import refuse


def check(model: Model, dim: Dim = None, as_json: Json = False, config: Config = None) -> None:
    """List every operator of a model that pockengine does not have, before compiling anything."""
    found = find_model(model, dim)
    unsupported = found.check()
    if as_json and unsupported:
        nodes = [asdict(item) for item in unsupported]
        typer.echo(json.dumps({"supported": False, "unsupported": nodes}))
    refuse(unsupported)
    graph = found.load()
    operators = Counter(type(value.op).__name__ for value in graph.values() if value.inputs)
    numbers = sum(value.type.size for value in graph.params.values())
    if as_json:
        facts = {"operators": operators, "tensors": len(graph.params), "numbers": numbers}
        typer.echo(json.dumps({"supported": True, "unsupported": [], **facts}))
        return
    names = ", ".join(f"{count} {name}" for name, count in operators.most_common())
    typer.echo(f"Every operator is supported: {names}.")
    typer.echo(f"{len(graph.params)} weight tensors hold {numbers:,} numbers.")
