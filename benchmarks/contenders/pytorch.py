"""PyTorch: eager in both of its memory layouts, and torch.compile."""

import shutil
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contenders import RATE, Begin, Case, Missing, Step
from benchmarks.networks import MODELS, logits


def load(case: Case, variant: str) -> Begin:
    torch.set_num_threads(case.threads)
    last = variant != "contiguous" and case.workload.image
    if variant == "compile" and not (shutil.which("g++") or shutil.which("clang++")):
        raise Missing("torch.compile needs a C++ compiler, and found neither g++ nor clang++")
    layout = torch.channels_last if last else torch.contiguous_format
    module = loaded(case).to(memory_format=layout)
    arrays, labels = case.batch()
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if last:
        inputs = {name: x.contiguous(memory_format=layout) for name, x in inputs.items()}
    target = torch.from_numpy(labels)

    def begin() -> tuple[Step, dict[str, Any]]:
        return training_step(case, module, inputs, target, variant == "compile"), {}

    return begin


def loaded(case: Case) -> nn.Module:
    """The model with the weights of the folder, ready to train what the scheme names."""
    module = MODELS[case.workload.network].make()
    state = {name: torch.from_numpy(array) for name, array in case.arrays("weights.npz").items()}
    module.load_state_dict(state, assign=True)
    trained = case.trained()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)
    return module.train(case.batch_statistics)


def training_step(
    case: Case,
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    target: torch.Tensor,
    compiled: bool,
) -> Step:
    chosen = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=RATE, momentum=case.workload.momentum, fused=True)

    def loss_of(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits(module, inputs), target)

    run = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step() -> float:
        optimizer.zero_grad()
        loss = run(inputs, target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
