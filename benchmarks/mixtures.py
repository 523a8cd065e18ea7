"""A small mixture of experts that is trained, loses experts by several criteria, is repaired, and trained by adapters.

Run: python benchmarks/mixtures.py [TEXTS]

TEXTS is a folder with WikiText-2's validation and test text (``wikitext2-valid.txt``, ``wikitext2-test.txt``). A
Mixtral of two layers with eight experts each, two of which compute a token, learns the validation text byte by byte in
windows of 64 (three seeds); then four or six experts of every layer go, chosen on 64 windows of that text. Perplexity
per byte is of the first 512 windows of the test text: after the cut, after ``recover`` on the same windows, after an
epoch in which low-rank adapters alone are trained. A network so small says which criteria work at all, not what they
cost a large one. Stops and goes on; writes results/mixtures.json and the table in docs/transformers.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from networks import SHARED
from records import into_docs, read, table, write
from torch import nn

import secateur
from secateur.data.texts import Parts
from secateur.graph.copies import deep_copy
from secateur.models import import_torchvision
from secateur.task import LanguageModelling
from secateur.train import Adapters, TrainConfig, fit

DOCS = Path(__file__).resolve().parents[1] / "docs/transformers.md"
SEEDS, EXPERTS, LENGTH, CALIBRATION, TEST = (0, 1, 2), 8, 64, 64, 512
CRITERIA = ("routing", "output_change", "l2", "random")
KEPT = (4, 2)
LEARN = TrainConfig(epochs=4, batch_size=32, lr=3e-3, optimizer="adamw", weight_decay=0.0)
ADAPT = TrainConfig(epochs=1, batch_size=32, lr=2e-3, optimizer="adamw", weight_decay=0.0)


def task_of(texts: Path) -> LanguageModelling:
    learn, test = (texts / f"wikitext2-{part}.txt" for part in ("valid", "test"))
    parts = Parts("WikiText-2", (learn.read_text()[:250_000],), (), (test.read_text()[: TEST * LENGTH],))
    return LanguageModelling(parts, tokenizer=lambda text: list(text.encode()), length=LENGTH)


def mixtral(seed: int) -> Any:
    import_torchvision()  # transformers imports it, and would fail the way it does
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    return MixtralForCausalLM(MixtralConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=EXPERTS, num_experts_per_tok=2, max_position_embeddings=LENGTH,
        router_aux_loss_coef=0.0,
    ))  # fmt: skip


def perplexity(model: nn.Module, task: LanguageModelling) -> float:
    return float(secateur.evaluate(model, task).metrics["perplexity"])


def cut(model: nn.Module, task: LanguageModelling, criterion: str, keep: int, seed: int) -> dict[str, Any]:
    data = list(task.calibration(CALIBRATION))
    pruned = secateur.remove_experts(model, task.sample(2), keep=keep, criterion=criterion, data=data, seed=seed)
    repaired = secateur.recover(pruned, data)
    adapted = deep_copy(pruned.model)
    fit(adapted, task, ADAPT, seed=seed, adapters=Adapters(rank=8), progress=False)
    return {"seed": seed, "criterion": criterion, "kept": keep, "params": pruned.after.params / pruned.before.params,
            "cut": perplexity(pruned.model, task), "repaired": perplexity(repaired.model, task),
            "adapters": perplexity(adapted, task)}  # fmt: skip


def main(texts: Path) -> None:
    rows, task = read("mixtures"), task_of(texts)
    for seed in SEEDS:
        wanted = [(criterion, keep) for keep in KEPT for criterion in CRITERIA]
        left = [w for w in wanted if not any((r["seed"], r["criterion"], r["kept"]) == (seed, *w) for r in rows)]
        if not left:
            continue
        model = mixtral(seed)
        fit(model, task, LEARN, seed=seed, progress=False)
        rows = [r for r in rows if (r["seed"], r["criterion"]) != (seed, "none")]
        rows.append({"seed": seed, "criterion": "none", "kept": EXPERTS, "params": 1.0,
                     "cut": perplexity(model.eval(), task)})  # fmt: skip
        for criterion, keep in left:
            rows.append(cut(model, task, criterion, keep, seed))
            print(rows[-1], flush=True)
            write("mixtures", rows, windows=CALIBRATION, test_windows=TEST, length=LENGTH, threads=1)
    tables(rows)


def tables(rows: list[dict[str, Any]]) -> None:
    body = []
    for keep, criteria in ((EXPERTS, ("none",)), *((keep, CRITERIA) for keep in KEPT)):
        for criterion in criteria:
            own = [r for r in rows if (r["criterion"], r["kept"]) == (criterion, keep)]
            body.append([criterion, f"{keep} of {EXPERTS}", *(_spread(own, what) for what in _STAGES)])
    into_docs(DOCS, "mixtures", table(["criterion", "experts left", "after the cut", "repaired", "adapters"], body))


_STAGES = ("cut", "repaired", "adapters")


def _spread(rows: list[dict[str, Any]], what: str) -> str:
    found = [r[what] for r in rows if what in r]
    return f"{sum(found) / len(found):.2f} ({min(found):.2f}–{max(found):.2f})" if found else "–"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "data/text")
