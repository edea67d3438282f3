"""What command lines of benchmarks have in common."""

import argparse

import pytest
from benchmarks.options import matching

NAMES = ("wrist/1", "wrist/2", "vit/emoji")


def test_globs_choose_names_in_their_order() -> None:
    parser = argparse.ArgumentParser()
    assert matching(parser, "task", NAMES, ["vit/*", "wrist/2"]) == ["wrist/2", "vit/emoji"]


def test_globs_of_nothing_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matching(argparse.ArgumentParser(), "task", NAMES, ["wirst/*"])
    assert "no task is called wirst/*: wrist/1, wrist/2, vit/emoji" in capsys.readouterr().err
