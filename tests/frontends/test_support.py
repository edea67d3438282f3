"""The report of unsupported operators: all at once, counted, with their places."""

import pytest

from pockengine.errors import UnsupportedError
from pockengine.frontends.support import Unsupported, refuse, report


def test_nothing_found_raises_nothing() -> None:
    refuse([])


def test_report_counts_and_places() -> None:
    found = [
        Unsupported("aten.sort.default", "sort", "head net.py:7"),
        Unsupported("aten.sort.default", "sort_1"),
        Unsupported("aten.div.Tensor", "div", "", "rounding"),
    ]
    lines = report(found).splitlines()
    assert lines[0] == "3 nodes use operators that pockengine does not support:"
    assert lines[1:3] == ["  1 x aten.div.Tensor: rounding", "      at div"]
    assert lines[3:6] == [
        "  2 x aten.sort.default: no such operator",
        "      at sort (head net.py:7)",
        "      at sort_1",
    ]
    assert "Replace these parts" in lines[-1]


def test_refuse_raises_the_whole_table() -> None:
    with pytest.raises(UnsupportedError, match="1 x x: no such operator"):
        refuse([Unsupported("x", "n")])
