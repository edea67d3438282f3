"""`pockengine demo`"""

from pathlib import Path
from typing import Annotated

import typer

from pockengine.cli.options import Config, Json
from pockengine.demo.wrist import run


def demo(
    out: Annotated[Path, typer.Option(help="Where the tuned networks go.")] = Path(
        "pockengine-demo"
    ),
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Adapt a wrist-worn exercise recogniser to a person it has never seen."""
    run(out, as_json=as_json)
