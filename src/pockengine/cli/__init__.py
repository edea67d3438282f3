"""The command `pockengine`: one file a verb, each a thin layer over the public functions.

Exit codes: 0 done; 1 something the user can act on, told in words; 2 the command line or config
file cannot be understood; 3 the model uses operators that pockengine does not have; 130 stopped by
Ctrl-C, where that keeps something.
"""

import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from pockengine.cli.analyze import analyze
from pockengine.cli.bench import bench
from pockengine.cli.check import check
from pockengine.cli.compile import compile_
from pockengine.cli.demo import demo
from pockengine.cli.doctor import doctor
from pockengine.cli.inspect import inspect
from pockengine.cli.plan import plan
from pockengine.cli.search import search
from pockengine.errors import PockError, UnsupportedError

FAILED, UNSUPPORTED = 1, 3


class _Verbs(TyperGroup):
    """Turns the errors that pockengine raises on purpose into words and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PockError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            code = UNSUPPORTED if isinstance(error, UnsupportedError) else FAILED
            raise typer.Exit(code) from error


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Fine-tunes deep networks on the device that uses them.",
)
app.command()(demo)
app.command()(check)
app.command()(plan)
app.command()(analyze)
app.command()(search)
app.command("compile")(compile_)
app.command()(inspect)
app.command()(bench)
app.command()(doctor)


def main() -> None:
    """The entry point of the console script; warnings are words, without the lines of code."""
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    app()
