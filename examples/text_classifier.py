"""A BERT of two layers learns to tell questions from statements.

The weights are random, so that nothing is downloaded; take `from_pretrained` for real work.
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import pockengine as pe

LENGTH, BATCH = 16, 8
QUESTIONS = ["where is the key", "who took the key", "when does the train leave", "is it late"]
STATEMENTS = ["the key is here", "she took the key", "the train leaves at ten", "it is late"]
TEXTS, LABELS = QUESTIONS + STATEMENTS, np.array([1] * 4 + [0] * 4)
WORDS = sorted({word for text in TEXTS for word in text.split()})


class Classifier(nn.Module):
    """Token numbers i64[N,16] -> logits f32[N,2]; 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS) + 1,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=LENGTH,
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.bert(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
        return logits


def tokens(texts: list[str]) -> np.ndarray:
    """Numbers of the words, padded with 0."""
    found = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in zip(found, texts, strict=True):
        numbers = [WORDS.index(word) + 1 for word in text.split()]
        row[: len(numbers)] = numbers
    return found


def main() -> None:
    model = Classifier().eval()
    graph = pe.import_torch(model, torch.ones(2, LENGTH, dtype=torch.int64))
    scheme = pe.UpdateScheme.last_blocks(graph, 1)
    print(scheme.describe(graph))
    program = pe.compile(graph, optimizer="adamw", scheme=scheme, batch=BATCH)
    with pe.Session(program) as session:
        for step in range(40):
            loss = session.step(tokens(TEXTS), LABELS, lr=1e-3)
            if step % 10 == 0:
                print(f"step {step:2}: loss {loss:.3f}")
        print(f"accuracy: {session.evaluate(tokens(TEXTS), LABELS)['accuracy']:.0%}")


if __name__ == "__main__":
    main()
