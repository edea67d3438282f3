"""The options that several verbs share, and the config file that they override."""

import functools
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from pockengine.cli.load import FoundModel, find_model, make_optimizer, make_scheme
from pockengine.errors import InputError
from pockengine.files import parse_bytes
from pockengine.job import Job, as_precision
from pockengine.optim import ClipNorm
from pockengine.target import Backend, Target


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the verb's options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read as TOML: {error}") from error
    known = {str(option.name) for option in ctx.command.params} - {"config", "as_json", "help"}
    values = {key.replace("-", "_"): _as_flags(value) for key, value in values.items()}
    unknown = sorted(set(values) - known)
    if unknown:
        raise typer.BadParameter(
            f"{path} sets {', '.join(unknown)}, which `{ctx.info_name}` does not have; "
            f"it has {', '.join(sorted(known))}."
        )
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def _as_flags(value: Any) -> Any:
    """A table such as [train] becomes a list of `key=value`, as the flags would give it."""
    return [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else value


Model = Annotated[
    str,
    typer.Argument(
        help="An .onnx file, or module:function: a PyTorch factory that returns "
        "(model, example_inputs)."
    ),
]
Dim = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=SIZE", help="The size of an ONNX model's free dimension."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True, callback=_read_config, help="A TOML file of options; flags override it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Loss = Annotated[
    str, typer.Option(help="cross_entropy, bce_with_logits, mse, l1, huber; output: the model's.")
]
OptimizerWords = Annotated[
    str, typer.Option(help="sgd, adam, adamw or lion, with settings: sgd:momentum=0.9.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that train; default: one a processor.")
]
Scheme = Annotated[
    str, typer.Option(help="full, head_only, last_blocks:K, biases[:K], a preset, a .json file.")
]
Train = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB=SHARE",
        help="Train these weights, for this share of their input channels. May be repeated; "
        "takes the place of --scheme.",
    ),
]


@dataclass(frozen=True)
class JobOptions:
    """Everything that decides a program, as the command line says it."""

    model: Model
    dim: Dim = None
    loss: Loss = "cross_entropy"
    optimizer: OptimizerWords = "sgd"
    scheme: Scheme = "full"
    train: Train = None
    batch: Annotated[int, typer.Option(min=1, help="Samples in a step.")] = 8
    accumulate: Annotated[int, typer.Option(min=1, help="Steps that share one update.")] = 1
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples computed at a time; default: all, or what --memory allows."
        ),
    ] = None
    precision: Annotated[
        str, typer.Option(help="Of what is stored: f32, bf16; bf16_products: and multiplied.")
    ] = "f32"
    clip_norm: Annotated[float | None, typer.Option(help="Limit of the gradients' norm.")] = None
    target: Annotated[str, typer.Option(help="host, avx512, avx2, sse, neon-linux...")] = "host"
    backend: Annotated[str, typer.Option(help="c, or numpy, which needs no compiler.")] = "c"
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: 1, on the host all processors.")
    ] = None
    memory: Annotated[str | None, typer.Option(help="Budget, such as 64MB or 64MiB.")] = None
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure which kernels are the fastest here.")
    ] = False

    @functools.cached_property
    def found(self) -> FoundModel:
        """The model; a factory is called once."""
        return find_model(self.model, self.dim)

    def job(self) -> Job:
        """The job, its model imported. Raises what importing and looking up names raises."""
        graph = self.found.load()
        return Job.of(
            graph,
            self.loss,
            make_optimizer(self.optimizer),
            make_scheme(graph, self.scheme, self.train),
            self.batch,
            self._target(),
            ClipNorm(self.clip_norm) if self.clip_norm else None,
            self.accumulate,
            self.micro_batch,
            precision=as_precision(self.precision),
            tune=self.tune,
        )

    def _target(self) -> Target:
        budget = parse_bytes(self.memory) if self.memory else None
        if self.target == "host":
            return Target.host(backend=self._backend(), threads=self.threads, memory_budget=budget)
        return Target.named(
            self.target,
            backend=self._backend(),
            threads=self.threads or 1,
            memory_budget=budget,
        )

    def _backend(self) -> Backend:
        for name in get_args(Backend):
            if name == self.backend:
                return name  # type: ignore[no-any-return]
        raise InputError(f"no back end is called {self.backend!r}; there are c and numpy.")


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Puts the fields of each parameter that is a dataclass of options on the command line."""
    own = inspect.signature(verb).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
    flat = [q for p in own for q in (_options(groups[p.name]) if p.name in groups else [p])]

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
            for name, kind in groups.items()
        }
        verb(**made, **given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in flat]
    command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in flat}
    return command


def _options(group: Any) -> list[inspect.Parameter]:
    """A dataclass's fields as parameters; those without a default are required."""
    keyword_only, required = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(
            f.name,
            keyword_only,
            default=required if f.default is MISSING else f.default,
            annotation=f.type,
        )
        for f in fields(group)
    ]
