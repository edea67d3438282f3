"""The same training step by PyTorch eager, to stand beside ours. Imports PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pockengine.analysis.measure import RATE, TARGET
from pockengine.autodiff.objective import (
    L1,
    MSE,
    BCEWithLogits,
    CrossEntropy,
    Huber,
    Loss,
    OwnOutput,
)
from pockengine.errors import InputError
from pockengine.job import Job
from pockengine.optim import SGD, Adam, AdamW, Optimizer, as_optimizer
from pockengine.runtime.program import Array

TorchLoss = Callable[[torch.Tensor, Any], torch.Tensor]
_LOSSES: dict[type[Loss], TorchLoss] = {
    CrossEntropy: F.cross_entropy,
    BCEWithLogits: F.binary_cross_entropy_with_logits,
    MSE: F.mse_loss,
    L1: F.l1_loss,
    Huber: F.huber_loss,
    OwnOutput: lambda output, _: output,
}


def torch_call(
    module: nn.Module, by_name: bool, job: Job, entry: str, batch: Mapping[str, Array]
) -> Callable[[], object]:
    """A call of PyTorch that does what our entry point does: train, evaluate or predict.

    Losses have their default settings, and whole tensors are trained where the scheme trains a
    share of their channels. Raises InputError for an optimizer that PyTorch does not have.
    """
    torch.set_num_threads(job.target.threads)
    given = {name: torch.from_numpy(array.copy()) for name, array in batch.items()}
    labels = given.pop(TARGET, None)
    loss_of = _LOSSES[type(job.loss)]

    def forward() -> torch.Tensor:
        output = _tensor(module(**given) if by_name else module(*given.values()))
        return output if entry == "predict" else loss_of(output, labels)

    if entry != "train":
        return torch.inference_mode()(forward)
    return _training(forward, _chosen(module, job), as_optimizer(job.optimizer))


def _training(
    forward: Callable[[], torch.Tensor], chosen: list[nn.Parameter], ours: Optimizer
) -> Callable[[], object]:
    optimizer = _optimizer(ours, chosen)

    def step() -> float:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def _chosen(module: nn.Module, job: Job) -> list[nn.Parameter]:
    """The parameters that the scheme trains; the others ask for no gradient."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in job.selection)
    return [p for p in module.parameters() if p.requires_grad]


def _optimizer(ours: Optimizer, chosen: list[nn.Parameter]) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": RATE, "weight_decay": ours.weight_decay, "fused": True}
    match ours:
        case SGD():
            return torch.optim.SGD(
                chosen,
                momentum=ours.momentum,
                nesterov=ours.nesterov,
                dampening=ours.dampening,
                **common,
            )
        case AdamW():
            return torch.optim.AdamW(chosen, betas=ours.betas, eps=ours.eps, **common)
        case Adam():
            return torch.optim.Adam(chosen, betas=ours.betas, eps=ours.eps, **common)
    raise InputError(f"PyTorch has no optimizer like {ours}")


def _tensor(output: Any) -> torch.Tensor:
    """The first tensor of what a model returns."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output
