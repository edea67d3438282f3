"""What training takes beyond the weights and inference, everything trained beside the preset.

    python -m benchmarks.extra_memory [--model mobilenetv2] [--batch 8] [--json]

`extra` is the arena of training less the weights and less what inference takes beside them. It can
be next to nothing, since a sparse backward fits into the place of the forward's peak. So the table
also has `saved`: optimizer state, and activations that are kept for the backward when the loss is
known. Nothing is compiled: the plan says it. Batch norm has frozen statistics.
"""

import argparse
import json

import torch

import pockengine as pe
from benchmarks.networks import MODELS
from pockengine.compiler import Planned, plan_job
from pockengine.job import Job
from pockengine.plan.planner import Plan
from pockengine.plan.report import extra_training_bytes, table, timeline


def planned(name: str, scheme: str, batch: int, optimizer: pe.SGD) -> Planned:
    torch.manual_seed(0)
    model = MODELS[name]
    graph = pe.import_torch(model.make().eval(), model.inputs(2))
    chosen = model.scheme(graph, scheme)
    return plan_job(Job.of(graph, "cross_entropy", optimizer, chosen, batch, None))


def saved_bytes(plan: Plan) -> int:
    """Optimizer state, and what is kept for the backward at the step of the loss."""
    live = timeline(plan, "train")[plan.entries["train"].schedule.loss_step()]
    return live["saved"] + live["state"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mobilenetv2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    options = parser.parse_args()
    extra, saved = {}, {}
    for scheme in ("full", "sparse"):
        plan = planned(options.model, scheme, options.batch, pe.SGD(options.momentum)).plan
        extra[scheme] = extra_training_bytes(plan)
        saved[scheme] = saved_bytes(plan)
        if not options.json:
            print(f"{scheme}:\n{table(plan)}\n")
    ratios = {
        "extra_ratio": round(extra["full"] / max(extra["sparse"], 1), 2),
        "saved_ratio": round(saved["full"] / max(saved["sparse"], 1), 2),
    }
    result = {"model": options.model, "batch": options.batch, "extra": extra, "saved": saved}
    print(json.dumps(result | ratios))


if __name__ == "__main__":
    main()
