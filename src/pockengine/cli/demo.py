"""`pockengine demo`"""

from pathlib import Path
from typing import Annotated

import typer

from pockengine.cli.options import Config, Json
from pockengine.demo.wrist import run

Out = Annotated[Path, typer.Option(help="The folder that the tuned networks go into.")]


def demo(out: Out = Path("pockengine-demo"), as_json: Json = False, config: Config = None) -> None:
    """Adapt a wrist-worn exercise recogniser to a person it has never seen."""
    run(out, as_json=as_json)
