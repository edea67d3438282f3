"""Estimates of the seconds of a step."""

import numpy as np
import pytest

from pockengine.analysis.timing import Calibration, Measured, Work, from_runs, least_squares
from pockengine.errors import InputError

STEPS = tuple(Measured(f"k{n}", "MatMul", n * 1000, n * 100, 1e-6 + n * 1e-6) for n in range(1, 9))


def test_a_measured_step_has_its_time() -> None:
    assert Calibration(STEPS, 0.0, 1.0).estimate(Work("k3", "any", 0, 0)) == 4e-6


def test_an_unseen_step_has_that_of_its_kind() -> None:
    found = Calibration(STEPS, 0.0, 1.0).estimate(Work("new", "MatMul", 4500, 450))
    assert found == pytest.approx(5.5e-6, rel=0.05)


def test_a_rare_kind_is_judged_by_all() -> None:
    found = Calibration(STEPS, 0.0, 1.0).estimate(Work("new", "Conv", 4500, 450))
    assert found == pytest.approx(5.5e-6, rel=0.05)


def test_a_model_of_steps_that_were_not_measured_is_never_negative() -> None:
    assert Calibration(STEPS, 0.0, 1.0).estimate(Work("new", "MatMul", 0, 0)) > 0


def test_json_is_read_back() -> None:
    calibration = Calibration(STEPS, 1e-4, 1.1, (0.1, 0.2))
    assert Calibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "version": 1}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no calibration that pockengine wrote"):
        Calibration.from_json(text)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(InputError, match="at least one timed program"):
        from_runs([])


def test_least_squares_has_no_negative_part() -> None:
    rows = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert least_squares(rows, rows @ [0.5, 2.0]) == pytest.approx([0.5, 2.0])
    assert (least_squares(rows, np.array([3.0, 2.0, 1.0])) >= 0).all()
