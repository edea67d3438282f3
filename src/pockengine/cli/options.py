"""The options that several verbs share, and the config file that they override."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the verb's options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read as TOML: {error}") from error
    known = {str(option.name) for option in ctx.command.params} - {"config", "as_json"}
    values = {key.replace("-", "_"): _flat(value) for key, value in values.items()}
    unknown = sorted(set(values) - known)
    if unknown:
        raise typer.BadParameter(
            f"{path} sets {', '.join(unknown)}, which `{ctx.info_name}` does not have; "
            f"it has {', '.join(sorted(known))}."
        )
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def _flat(value: Any) -> Any:
    """A table such as [train] becomes a list of `key=value`, as the flags would give it."""
    return [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else value


Model = Annotated[
    str,
    typer.Argument(
        help="An .onnx file, or module:function for a PyTorch factory that returns "
        "(model, example_inputs)."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True, callback=_read_config, help="A TOML file of options; flags override it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
Loss = Annotated[
    str, typer.Option(help="cross_entropy, mse, ...; or `output`: the model's own scalar.")
]
Optimizer = Annotated[
    str, typer.Option(help="sgd, adam, adamw or lion, with settings: `sgd:momentum=0.9`.")
]
Scheme = Annotated[
    str,
    typer.Option(help="full, head_only, last_blocks:K, biases:K, or a scheme's .json file."),
]
Train = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB=SHARE",
        help="Train these weights, for this share of their input channels; may be repeated, and "
        "takes the place of --scheme.",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Samples in a step.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that the program uses.")]
