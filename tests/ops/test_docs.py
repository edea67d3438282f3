"""The page about writing operators runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "writing-an-operator.md"


def test_the_code_on_the_page() -> None:
    scope: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
