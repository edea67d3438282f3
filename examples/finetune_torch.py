"""A PyTorch model is fine-tuned sparsely by a native program, and gets its weights back.

The model starts from random weights, so that the example needs no download.
"""

import numpy as np
import torch
from torch import nn

import pockengine as pe

BATCH, STEPS = 16, 60


def make_model() -> nn.Sequential:
    """A small convolutional classifier of 16x16 pictures."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 4),
    ).eval()  # frozen batch statistics, as usual in fine-tuning with small batches


def make_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bars at one of four angles, with noise: pictures f32[count,1,16,16] and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    rows, columns = np.mgrid[-8:8, -8:8]
    angles = labels[:, None, None] * np.pi / 4
    distance = np.abs(rows * np.cos(angles) + columns * np.sin(angles))
    pictures = (distance < 1.5) + rng.normal(0, 0.5, (count, 16, 16))
    return pictures[:, None].astype(np.float32), labels


def main() -> None:
    model = make_model()
    graph = pe.import_torch(model, torch.zeros(2, 1, 16, 16))

    # The head whole; of the second convolution the bias, and half of its input channels.
    scheme = pe.UpdateScheme.head_only(graph) | pe.UpdateScheme.select(
        graph, {"3.weight": 0.5, "3.bias": True}
    )
    print(scheme.describe(graph))
    program = pe.compile(
        graph, loss="cross_entropy", optimizer=pe.AdamW(), scheme=scheme, batch=BATCH
    )
    print(f"planned memory: {program.peak_bytes:,} bytes")

    x, y = make_data(BATCH * STEPS, seed=1)
    test_x, test_y = make_data(200, seed=2)
    with pe.Session(program) as session:
        print(f"accuracy before: {session.evaluate(test_x, test_y)['accuracy']:.1%}")
        for start in range(0, len(x), BATCH):
            session.step(x[start : start + BATCH], y[start : start + BATCH], lr=3e-3)
        print(f"accuracy after:  {session.evaluate(test_x, test_y)['accuracy']:.1%}")
        weights = session.state_dict()

    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    with torch.no_grad():
        found = model(torch.from_numpy(test_x)).argmax(1).numpy()
    print(f"accuracy of the PyTorch model with these weights: {np.mean(found == test_y):.1%}")


if __name__ == "__main__":
    main()
