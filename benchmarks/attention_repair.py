"""MiniLM with attention heads of half the size: what a repair without labels gives back.

Run: python benchmarks/attention_repair.py MODEL_FOLDER TEXT_FOLDER [--pairs TEST_PAIRS]

A sentence encoder by transformers (all-MiniLM-L6-v2) and STS-B (`stsb-en-train.csv`, `stsb-en-test.csv`: two texts and a
score). Half of every head's channels go by magnitude: those of queries and keys, and those of values too. Calibration is on the first
512 sentences of the training split without their scores; the score is Spearman's correlation of cosine and label on the
test split. Writes results/attention_repair.json and the table in docs/recovery.md; rows that are there are not done again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.models._torchvision import import_torchvision
from secateur.task.text.similarity import embeddings, spearman

import_torchvision()  # transformers asks for it

NAME = "attention_repair"
LAYERS = {"queries and keys": ["*.self.query", "*.self.key"], "queries, keys and values": ["*.attention.self.*"]}
REPAIRS = {"none": None, "least squares of the layers": "layers", "logits, then values and output": "logits"}
SENTENCES = 512


def pairs(path: Path, limit: int | None = None) -> list[tuple[str, str, float]]:
    """Two texts and a score per line."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(a, b, float(score)) for a, b, score in list(csv.reader(file))[:limit]]


def tokens(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Numbers of the tokens, filled up to the longest text, and the mask."""
    found = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


def embedded(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """Mean-pooled embeddings (N, D)."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for k in range(0, len(order), 64):
            given = tokens(tokenizer, [texts[i] for i in order[k : k + 64]])
            found |= dict(zip(order[k : k + 64], embeddings(model(**given), given["attention_mask"]), strict=True))
    return torch.stack([found[k] for k in range(len(texts))])


def score(model: nn.Module, tokenizer: Any, test: list[tuple[str, str, float]]) -> float:
    """Spearman's correlation of cosine and label, times 100."""
    one, other = (embedded(model.eval(), tokenizer, [p[k] for p in test]) for k in (0, 1))  # type: ignore[misc]
    cosines = torch.nn.functional.cosine_similarity(one, other)
    return round(100 * spearman(cosines, torch.tensor([p[2] for p in test])), 2)


def jobs() -> Iterator[dict[str, str]]:
    """All rows that there should be."""
    yield from ({"cut": cut, "repair": repair} for cut in LAYERS for repair in REPAIRS)
