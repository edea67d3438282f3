"""`pockengine check`"""

import json
from collections import Counter

import typer
from rich.console import Console

from pockengine.cli.load import load_graph
from pockengine.cli.options import Config, Json, Model
from pockengine.errors import UnsupportedError


def check(model: Model, as_json: Json = False, config: Config = None) -> None:
    """List every operator of a model that pockengine does not have, before compiling anything."""
    try:
        graph = load_graph(model)
    except UnsupportedError as error:
        if as_json:
            typer.echo(json.dumps({"supported": False, "report": str(error)}))
        raise
    operators = Counter(type(value.op).__name__ for value in graph.values() if value.inputs)
    weights = sum(value.type.size for value in graph.params.values())
    if as_json:
        facts = {"supported": True, "operators": operators, "weights": weights}
        typer.echo(json.dumps(facts))
        return
    found = ", ".join(f"{count} {name}" for name, count in operators.most_common())
    Console().print(f"Every operator is supported: {found}.")
    Console().print(f"{len(graph.params)} weight tensors hold {weights} numbers.")
