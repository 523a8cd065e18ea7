"""MiniLM with attention heads of half the size: what a repair without labels gives back.

Run: python benchmarks/attention_repair.py MODEL_FOLDER TEXT_FOLDER [--pairs TEST_PAIRS]

A sentence encoder by transformers (all-MiniLM-L6-v2) and STS-B (stsb-en-train.csv, stsb-en-test.csv: two texts and a
score per line). Half of every head's channels go by magnitude: those of queries and keys, or those of values as well.
Calibration is on the first 512 sentences of the training split without their scores. What is measured is Spearman's
correlation of cosine and label on the test split. Writes results/attention_repair.json and the table in
docs/recovery.md; rows that are there are not done again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.cut.pruned import Pruned
from secateur.models._torchvision import import_torchvision
from secateur.recovery import api
from secateur.recovery.attention import LogitFit
from secateur.task.text.similarity import embeddings, spearman

import_torchvision()  # transformers asks for it

NAME = "attention_repair"
LAYERS = {"queries and keys": ["*.self.query", "*.self.key"], "and values": ["*.attention.self.*"]}
REPAIRS = ("none", "every layer by itself", "logits alone", "logits, then the other layers")
HEAD = ["cut", "repair", "Spearman", "dense", "attention's divergence, nats", "CPU seconds"]
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


@contextmanager
def only(repair: str, fits: list[LogitFit]) -> Iterator[None]:
    """Leaves a part of the repair out; ``fits`` gets the stops at which logits are fitted."""
    whole = api.logit_fits, api.affected

    def watched(pair: Any, found: Any, options: Any) -> Any:
        made = whole[0](pair, found, options)
        fits.extend(made[0])
        return made

    api.logit_fits = (lambda pair, found, options: ([], found, [])) if repair == REPAIRS[1] else watched
    api.affected = (lambda pair, found: []) if repair == REPAIRS[2] else whole[1]
    try:
        yield
    finally:
        api.logit_fits, api.affected = whole


def repaired(cut: Pruned, given: dict[str, Tensor], repair: str) -> tuple[Pruned, dict[str, Any]]:
    """The repaired network, and what is known of it."""
    if repair == REPAIRS[0]:
        return cut, {}
    fits: list[LogitFit] = []
    began = time.process_time()
    with only(repair, fits):
        found = secateur.recover(cut, given)
    known: dict[str, Any] = {"cpu_seconds": round(time.process_time() - began, 1)}
    if fits:
        known["divergence"] = [[round(f.before, 5), round(f.after, 5)] for f in fits]
    return found, known


def page(rows: list[dict[str, Any]], dense: float) -> str:
    """The table of docs/recovery.md."""
    body = [
        [r["cut"], r["repair"], f"{r['spearman']:.2f}", f"{dense:.2f}", _divergence(r), r.get("cpu_seconds", "")]
        for r in rows
    ]
    return table(HEAD, body)


def _divergence(row: dict[str, Any]) -> str:
    """Mean over the layers, before and after."""
    found = row.get("divergence", [])
    return " → ".join(f"{sum(pair[k] for pair in found) / len(found):.4f}" for k in (0, 1)) if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the sentence encoder")
    parser.add_argument("texts", type=Path, help="folder of stsb-en-train.csv and stsb-en-test.csv")
    parser.add_argument("--pairs", type=int, help="test pairs")
    arguments = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer  # it asks for torchvision, which has to be imported first

    model = AutoModel.from_pretrained(arguments.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    test = pairs(arguments.texts / "stsb-en-test.csv", arguments.pairs)
    sentences = [text for pair in pairs(arguments.texts / "stsb-en-train.csv", SENTENCES // 2) for text in pair[:2]]
    given, rows, dense = tokens(tokenizer, sentences), read(NAME), score(model, tokenizer, test)
    for what, layers in LAYERS.items():
        left = [repair for repair in REPAIRS if not any((r["cut"], r["repair"]) == (what, repair) for r in rows)]
        if not left:
            continue
        options: dict[str, Any] = {"ratio": 0.5, "granularity": "within", "criterion": "l2", "only": layers}
        cut = secateur.prune(model, {k: v[:2] for k, v in given.items()}, **options)
        for repair in left:
            found, known = repaired(cut, given, repair)
            rows.append({"cut": what, "repair": repair, "spearman": score(found.model, tokenizer, test)} | known)
            write(NAME, rows, dense=dense, threads=torch.get_num_threads(), test_pairs=len(test), sentences=SENTENCES)
            print(rows[-1], flush=True)
    docs = Path(__file__).resolve().parents[1] / "docs" / "recovery.md"
    if docs.exists() and arguments.pairs is None:
        into_docs(docs, "attention", page(rows, dense))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
