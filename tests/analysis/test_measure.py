"""Times of single calls, and what the process that measures memory imports."""

import subprocess
import sys
import time

from pockengine.analysis.measure import quartiles, timed_calls


def test_calls_are_timed_one_by_one() -> None:
    calls = []

    def call() -> None:
        calls.append(time.sleep(0.002))

    seconds = timed_calls(call, 0.05)
    assert 2 <= len(seconds) < len(calls)  # the first ones do not count
    assert min(seconds) >= 0.002


def test_a_call_is_timed_however_short_the_time() -> None:
    assert len(timed_calls(lambda: None, 0.0)) >= 1


def test_quartiles_of_few_times() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)


def test_the_measuring_process_imports_the_runtime_alone() -> None:
    foreign = {"torch", "onnx", "ziglang", "safetensors", "pockengine.compiler", "pockengine.ir"}
    code = f"import sys, pockengine.analysis.measure; sys.exit(bool({foreign} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
