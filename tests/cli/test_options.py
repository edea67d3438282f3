"""Config files, amounts of memory, and exit codes."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pockengine.cli.options import Config, JobOptions, parse_bytes, with_options
from pockengine.errors import InputError

app = typer.Typer()


@app.command()
@with_options
def show(options: JobOptions, out: str = "here", config: Config = None) -> None:
    typer.echo(f"{options.model} {options.batch} {options.train} {options.threads} {out}")


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["show", *arguments])
    return f"{result.exit_code}: {' '.join(result.output.replace('│', ' ').split())}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(
        'model = "a.onnx"\nbatch = 4\nout = "there"\n[train]\n"head.*" = 1\n"b" = 0.5\n'
    )
    return path


def test_without_a_config_file() -> None:
    assert run("a.onnx") == "0: a.onnx 8 None None here"


def test_the_config_file_gives_defaults(config: Path) -> None:
    assert run("--config", str(config)) == "0: a.onnx 4 ['head.*=1', 'b=0.5'] None there"


def test_flags_override_the_config_file(config: Path) -> None:
    flags = ["b.onnx", "--batch", "2", "--train", "c", "--out", "x", "--config", str(config)]
    assert run(*flags) == "0: b.onnx 2 ['c'] None x"


def test_a_config_file_with_unknown_keys(config: Path) -> None:
    config.write_text("bach = 4\n")
    answer = run("a.onnx", "--config", str(config))
    assert answer.startswith("2:")
    assert "sets bach, which `show` does not have" in answer


def test_a_config_file_that_is_no_toml(config: Path) -> None:
    config.write_text("batch: 4\n")
    assert "cannot be read as TOML" in run("a.onnx", "--config", str(config))


def test_a_missing_config_file() -> None:
    assert "cannot be read as TOML" in run("a.onnx", "--config", "nowhere.toml")


@pytest.mark.parametrize(
    ("words", "size"),
    [("65536", 65536), ("64MB", 64_000_000), ("1.5 KiB", 1536), ("2gib", 2 << 30)],
)
def test_amounts_of_memory(words: str, size: int) -> None:
    assert parse_bytes(words) == size


@pytest.mark.parametrize("words", ["", "much", "3 XB", "1.2.3MB", "-4"])
def test_no_amounts_of_memory(words: str) -> None:
    with pytest.raises(InputError, match="expected an amount of memory such as 64MB"):
        parse_bytes(words)
