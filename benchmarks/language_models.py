"""A language model cut by weights and by activations, and a sentence encoder with the vocabulary of a corpus.

Run: python benchmarks/language_models.py CAUSAL ENCODER

CAUSAL and ENCODER are folders of transformers with their tokenizers: SmolLM2-135M-Instruct (from a Q4_1 GGUF file,
turned back into float32) and all-MiniLM-L6-v2 here. The MLPs of the first are cut by a ratio, the same in every layer,
chosen on 16 windows of 128 tokens of WikiText-2's validation text; perplexity is of the first 48 windows of its test
text, each by itself, before any repair. The second loses the tokens that STS-B's training and validation sentences
never use, and is scored on the test pairs. Stops and goes on; writes results/language_models.json and the tables in
docs/transformers.md.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import torch
from networks import SHARED
from records import into_docs, read, table, write
from torch import nn
from torch.nn import functional as F

import secateur
from secateur.data.texts import Parts
from secateur.models import create
from secateur.models.transformer import load_tokenizer
from secateur.task import LanguageModelling
from secateur.task.text import TextSimilarity

DOCS = Path(__file__).resolve().parents[1] / "docs/transformers.md"
TEXTS = SHARED / "data/text"
CALIBRATION, TEST, LENGTH = 16, 48, 128
CUTS = (("none", 0.0), ("wanda", 0.3), ("l2", 0.3), ("wanda", 0.2), ("flap", 0.3))


def language(name: str) -> LanguageModelling:
    """Calibration text as the part to train on, and the beginning of the test text."""
    calibration, test = (TEXTS / f"wikitext2-{part}.txt" for part in ("valid", "test"))
    parts = Parts("WikiText-2", (calibration.read_text()[:120_000],), (), (test.read_text()[:50_000],))
    return LanguageModelling(parts, tokenizer=name, length=LENGTH)


def perplexity(model: Any, task: LanguageModelling) -> float:
    total = count = 0.0
    with torch.no_grad():
        for k in range(0, TEST, 8):
            inputs, ids = task.made("test", torch.arange(k, k + 8))
            scores = model(**inputs).logits[:, :-1].flatten(0, 1).float()
            total += float(F.cross_entropy(scores, ids[:, 1:].flatten(), reduction="sum"))
            count += ids[:, 1:].numel()
    return math.exp(total / count)


def cut(model: nn.Module, task: LanguageModelling, criterion: str, ratio: float) -> dict[str, Any]:
    row: dict[str, Any] = {"what": "cut", "criterion": criterion, "ratio": ratio}
    if not ratio:
        return {**row, "width": model.config.intermediate_size, "perplexity": perplexity(model, task)}
    data = list(task.calibration(CALIBRATION))
    small: Any = secateur.prune(model, task.sample(2), ratio=ratio, only="*.mlp.*", criterion=criterion, data=data)
    return {**row, "width": small.model.config.intermediate_size, "lost": list(small.lost),
            "perplexity": perplexity(small.model, task)}  # fmt: skip


def sentences(*parts: str) -> list[tuple[str, str, float]]:
    rows = [row for part in parts for row in csv.reader((TEXTS / f"stsb-en-{part}.csv").open(newline=""))]
    return [(one, other, float(score) / 5) for one, other, score in rows]


def spearman(model: nn.Module, tokenizer: Any) -> float:
    pairs = tuple(sentences("test"))
    task = TextSimilarity(Parts("STS-B", pairs[:1], (), pairs), tokenizer=tokenizer, length=64)
    return 100 * secateur.evaluate(model, task).metrics["spearman"]


def vocabulary(name: str) -> list[dict[str, Any]]:
    model, tokenizer = create(name), load_tokenizer(name)
    corpus = [text for row in sentences("train", "dev") for text in row[:2]]
    found = secateur.cut_vocabulary(model, tokenizer, corpus)
    sizes = [(model, tokenizer, found.before), (found.model, found.tokenizer, found.after)]
    return [{"what": "vocabulary", "tokens": tokens, "bytes": sum(4 * p.numel() for p in network.parameters()),
             "spearman": spearman(network, reader)} for network, reader, tokens in sizes]  # fmt: skip


def main(causal: str, encoder: str) -> None:
    rows = read("language_models")
    facts = {"windows": CALIBRATION, "test_windows": TEST, "length": LENGTH, "threads": 1}
    if not any(row["what"] == "vocabulary" for row in rows):
        rows += vocabulary(f"hf:{encoder}")
        write("language_models", rows, **facts)
    task = model = None
    for criterion, ratio in CUTS:
        if any((row.get("criterion"), row.get("ratio")) == (criterion, ratio) for row in rows):
            continue
        task, model = task or language(f"hf:{causal}"), model or create(f"hf:{causal}")
        rows.append(cut(model, task, criterion, ratio))
        write("language_models", rows, **facts)
        print(rows[-1], flush=True)
    tables(rows)


def tables(rows: list[dict[str, Any]]) -> None:
    cuts = sorted((r for r in rows if r["what"] == "cut"), key=lambda r: (r["ratio"], r["perplexity"]))
    body = [[r["criterion"], f"{r['ratio']:.0%}", r["width"], f"{r['perplexity']:,.1f}"] for r in cuts]
    into_docs(DOCS, "language-models", table(["criterion", "MLPs removed", "width", "perplexity"], body))
    words = [r for r in rows if r["what"] == "vocabulary"]
    lines = [[f"{r['tokens']:,}", f"{r['bytes'] / 1e6:.1f}", f"{r['spearman']:.1f}"] for r in words]
    into_docs(DOCS, "vocabulary", table(["tokens", "MB of weights", "Spearman, %"], lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:3])
