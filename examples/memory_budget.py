"""Finds the richest of a few schemes that fits into a memory budget, without compiling anything.

python examples/memory_budget.py [KIB]
"""

import sys

import pockengine as pe
from pockengine.compiler import plan_job
from pockengine.demo.personalise import HERE
from pockengine.errors import MemoryBudgetError
from pockengine.job import Job
from pockengine.plan.report import table, timeline_text


def main() -> None:
    budget = 1024 * int(sys.argv[1]) if len(sys.argv) > 1 else 1300 * 1024
    graph = pe.import_onnx(HERE / "base_network.onnx")
    schemes = {
        "full": pe.UpdateScheme.full(graph),
        "last two blocks": pe.UpdateScheme.last_blocks(graph, 2),
        "biases and head": pe.UpdateScheme.biases(graph) | pe.UpdateScheme.head_only(graph),
        "head only": pe.UpdateScheme.head_only(graph),
    }
    target = pe.Target.host(threads=1, memory_budget=budget)
    for name, scheme in schemes.items():
        job = Job.of(graph, "cross_entropy", "adam", scheme, 16, target)
        try:
            planned = plan_job(job)
        except MemoryBudgetError as error:
            print(f"{name}: {error}\n")
            continue
        print(f"{name} fits:\n{table(planned.plan)}\n{timeline_text(planned.plan, 'train')}")
        return


if __name__ == "__main__":
    main()
