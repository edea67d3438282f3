"""A scheme of one's own: which input channels of a layer are trained is decided by hand.

The rule here: of each convolution but the first, the quarter of the channels whose inputs vary most
over a sample of data. Any rule that ends in channel numbers will do.
"""

import numpy as np
import torch
from torch import nn

import pockengine as pe

model = nn.Sequential(
    nn.Conv1d(3, 16, 5, padding=2),
    nn.ReLU(),
    nn.Conv1d(16, 32, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv1d(32, 32, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool1d(1),
    nn.Flatten(),
    nn.Linear(32, 5),
)


def lively_channels(x: torch.Tensor) -> dict[str, list[int]]:
    """For each weight to train, the input channels whose values vary most."""
    chosen = {}
    with torch.no_grad():
        for name, layer in model.named_children():
            if isinstance(layer, nn.Conv1d) and name != "0":
                order = x.var(dim=(0, 2)).argsort(descending=True)
                chosen[f"{name}.weight"] = sorted(order[: x.shape[1] // 4].tolist())
            x = layer(x)
    return chosen


def main() -> None:
    torch.manual_seed(0)
    graph = pe.import_torch(model, torch.zeros(2, 3, 64))
    channels = lively_channels(torch.randn(32, 3, 64))
    scheme = pe.UpdateScheme.select(graph, channels) | pe.UpdateScheme.head_only(graph)
    print(scheme.describe(graph))

    text = scheme.to_json()  # to keep beside the model
    assert pe.UpdateScheme.from_json(text) == scheme

    session = pe.Session(pe.compile(graph, scheme=scheme, batch=8))
    before = session.state_dict()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3, 64)).astype(np.float32), rng.integers(0, 5, 8)
    for _ in range(5):
        session.step(x, y, lr=0.1)
    for name, after in session.state_dict().items():
        if name in channels:
            changed = np.flatnonzero((after != before[name]).any(axis=(0, 2)))
            print(f"{name}: channels that changed {changed}, asked for {channels[name]}")


if __name__ == "__main__":
    main()
