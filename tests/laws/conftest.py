"""The option that chooses the machine of the compiled laws; imports of test modules beside."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "models")]


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the machine to compile the laws for: host, avx512, avx2, sse or neon"
    parser.addoption("--target", default="host", help=text)
