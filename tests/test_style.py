"""The size budgets of the code, and imports at the top of files."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "pockengine"
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}", node


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_files_are_short() -> None:
    lines = {str(p.relative_to(SOURCE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FILE} == {}


def test_functions_are_short() -> None:
    lengths = {place: length(function) for place, function in functions()}
    assert {place: n for place, n in lengths.items() if n > MOST_LINES_OF_A_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= 8
    assert statistics.quantiles(lengths.values(), n=20)[-1] <= 40


def test_imports_stand_at_the_top() -> None:
    inside = [
        place
        for place, function in functions()
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert inside == []


def test_modules_say_what_they_are() -> None:
    silent = [p for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []
