"""The option that chooses the machine of the compiled laws, and imports of this folder's modules."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the machine to compile the laws for: host, avx512, avx2, sse or neon"
    parser.addoption("--target", default="host", help=text)
