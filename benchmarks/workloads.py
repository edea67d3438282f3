"""What the suite trains. Imports nothing heavy: workers of every framework read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """A network of networks.py at a batch size; `statistics` are the batch norms'.

    "frozen" statistics are those of a calibration batch, as in fine-tuning; with "batch" they are
    computed in every step. `image` says that a peer may choose a memory layout.
    """

    network: str
    batch: int
    title: str
    statistics: str = "frozen"
    image: bool = True


WORKLOADS = {
    "mobilenetv2-0.35-b1": Workload("mobilenetv2-0.35", 1, "MobileNetV2-0.35, 128x128, batch 1"),
    "mobilenetv2-b1": Workload("mobilenetv2", 1, "MobileNetV2-1.0, 224x224, batch 1"),
    "mobilenetv2-b8": Workload("mobilenetv2", 8, "MobileNetV2-1.0, 224x224, batch 8"),
    "resnet50-b8": Workload("resnet50", 8, "ResNet-50, 224x224, batch 8"),
    "bert-b8": Workload("bert", 8, "MiniLM-L6 (BERT, d 384), batch 8 x 128", image=False),
    "wrist-b16": Workload("wrist", 16, "the wrist demo's network, batch 16", image=False),
    "mobilenetv2-b8-batchstat": Workload(
        "mobilenetv2", 8, "MobileNetV2-1.0, batch 8, batch statistics", "batch"
    ),
    "resnet50-b8-batchstat": Workload(
        "resnet50", 8, "ResNet-50, batch 8, batch statistics", "batch"
    ),
}
SCHEMES = ("full", "sparse")
