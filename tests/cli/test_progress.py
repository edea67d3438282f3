"""What a verb prints beside its result."""

import ctypes

import pytest

from pockengine.cli.progress import native_prints_aside


def test_native_prints_do_not_mix_with_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    """As those of a solver, which C keeps in a buffer until the process ends."""
    with native_prints_aside():
        ctypes.CDLL(None).printf(b"a solver's word\n")
    print("the result")
    out, err = capfd.readouterr()
    assert out == "the result\n"
    assert "a solver's word" in err
