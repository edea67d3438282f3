"""What the suite trains. Imports nothing heavy: workers of every framework read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Workload:
    """A network of networks.py at a batch size; `statistics` are the batch norms'.

    "frozen" statistics are those of a calibration batch, as in fine-tuning; with "batch" they are
    computed in every step. `image` says that a peer may choose a memory layout. `micro_batch` is
    how many samples our program computes at a time under a scheme, where not all. `momentum` is
    that of everybody's SGD.
    """

    network: str
    batch: int
    title: str
    statistics: str = "frozen"
    image: bool = True
    micro_batch: Mapping[str, int] = field(default_factory=dict)
    momentum: float = 0.9


WORKLOADS = {
    "mobilenetv2-0.35-b1": Workload("mobilenetv2-0.35", 1, "MobileNetV2-0.35, 128x128, batch 1"),
    "mobilenetv2-0.35-b1-plain": Workload(
        "mobilenetv2-0.35", 1, "MobileNetV2-0.35, 128x128, batch 1, plain SGD", momentum=0.0
    ),
    "mobilenetv2-b1": Workload("mobilenetv2", 1, "MobileNetV2-1.0, 224x224, batch 1"),
    "mobilenetv2-b8": Workload(
        "mobilenetv2", 8, "MobileNetV2-1.0, 224x224, batch 8", micro_batch={"full": 2}
    ),
    "resnet50-b8": Workload("resnet50", 8, "ResNet-50, 224x224, batch 8"),
    "bert-b8": Workload(
        "bert",
        8,
        "MiniLM-L6 (BERT, d 384), batch 8 x 128",
        image=False,
        micro_batch={"sparse": 4},
    ),
    "wrist-b16": Workload("wrist", 16, "the wrist demo's network, batch 16", image=False),
    "mobilenetv2-b8-batchstat": Workload(
        "mobilenetv2", 8, "MobileNetV2-1.0, batch 8, batch statistics", "batch"
    ),
    "resnet50-b8-batchstat": Workload(
        "resnet50", 8, "ResNet-50, batch 8, batch statistics", "batch"
    ),
}
SCHEMES = ("full", "sparse")
