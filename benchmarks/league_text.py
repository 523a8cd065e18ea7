"""Repair of a sentence encoder without training or labels: Secateur beside published methods, same cuts and texts.

    python benchmarks/league_text.py MODEL_FOLDER TEXT_FOLDER [--seeds 0 1 2] [--ways WAY …] [--cuts CUT …]

A sentence encoder by transformers (all-MiniLM-L6-v2) and STS-B (stsb-en-train.csv, stsb-en-test.csv: two texts and a
score per line). Cut are, everywhere the same share and by magnitude: half of every MLP; or MLPs and the insides of
attention heads, to 0.7 and to 0.5 of all multiply-accumulates (the two do not compare: MLPs are most of them). All
methods repair that cut from 512 sentences of the training split without their scores, which a seed chooses; *chosen* is
where Secateur chooses the channels itself. What is measured is Spearman's correlation of cosine and label on the test
split. The methods of others are in field.py. Rows that are there are not done again. Writes results/league_text.json
and a table of docs/league.md.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import field
import torch
from attention_repair import pairs, score, tokens
from league import cell
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.cut.pruned import Pruned
from secateur.models import import_torchvision

NAME = "league_text"
DOCS = Path(__file__).resolve().parents[1] / "docs/league.md"
SENTENCES = 512
MLP, ATTENTION = "*.intermediate.dense", "*.attention.self.*"
CUTS: dict[str, dict[str, Any]] = {
    "half of the MLPs": {"ratio": 0.5, "only": [MLP]},
    "0.7 of the MACs": {"macs": 0.7, "scope": "local", "only": [MLP, ATTENTION], "granularity": "within"},
    "0.5 of the MACs": {"macs": 0.5, "scope": "local", "only": [MLP, ATTENTION], "granularity": "within"},
}


@dataclass(frozen=True)
class Bench:
    """The dense encoder with its texts.

    Attributes:
        model: In eval mode.
        tokenizer: Its own.
        folder: Of the texts.
        seed: Which sentences are for calibration.
    """

    model: Any
    tokenizer: Any
    folder: Path
    seed: int

    @cached_property
    def sentences(self) -> list[str]:
        """For calibration."""
        known = list(
            dict.fromkeys(text for pair in pairs(self.folder / "stsb-en-train.csv", None) for text in pair[:2])
        )
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed))[:SENTENCES]
        return [str(known[k]) for k in order.tolist()]

    @cached_property
    def filled(self) -> dict[str, Tensor]:
        """They, filled up to the longest, as Secateur takes them."""
        return tokens(self.tokenizer, self.sentences)

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """They, those of one length together, so that nothing is filled up: the methods of others know no masks."""
        lengths: dict[int, list[str]] = defaultdict(list)
        for text in self.sentences:
            lengths[tokens(self.tokenizer, [text])["input_ids"].shape[1]].append(text)
        return [
            tokens(self.tokenizer, texts[k : k + 64]) for texts in lengths.values() for k in range(0, len(texts), 64)
        ]

    @cached_property
    def cuts(self) -> dict[tuple[str, str], Pruned]:
        """Those made so far."""
        return {}

    def cut(self, name: str, criterion: str) -> Pruned:
        """One of :data:`CUTS`."""
        if (name, criterion) not in self.cuts:
            data = {"data": self.filled} if criterion == "reconstruction" else {}
            example = {k: v[:2] for k, v in self.filled.items()}
            given = CUTS[name] if not data else {k: v for k, v in CUTS[name].items() if k != "scope"}
            self.cuts[name, criterion] = secateur.prune(self.model, example, criterion=criterion, **given, **data)
        return self.cuts[name, criterion]


Repair = Callable[[Bench, Pruned], nn.Module]


def _recover(bench: Bench, cut: Pruned, **options: Any) -> nn.Module:
    return secateur.recover(cut, bench.filled, dense=bench.model, seed=bench.seed, **options).model


def _corp(bench: Bench, cut: Pruned) -> nn.Module:
    """Where no head was cut within, what is left of it is GRAIL's affine map."""
    attention = [n for n, m in bench.model.named_modules() if n.endswith(".attention.self")]
    found = [(f"{n}.query", f"{n}.key") for n in attention if 0 in cut.plan.keep.get(f"{n}.query.weight", {})]
    size = bench.model.config.hidden_size // bench.model.config.num_attention_heads
    return field.corp(bench.model, cut, bench.batches, found, size)


REPAIRS: dict[str, Repair] = {
    "as cut": lambda _, cut: cut.model,
    "GRAIL": lambda bench, cut: field.grail(bench.model, cut, bench.batches),
    "affine GRAIL": lambda bench, cut: field.grail(bench.model, cut, bench.batches, affine=True),
    "CORP": _corp,
    "Secateur": _recover,
    "Secateur, variance matched": partial(_recover, match_variance=True),
}
OWN_CUT = {"Secateur, chosen": "Secateur"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the sentence encoder")
    parser.add_argument("texts", type=Path, help="folder of stsb-en-train.csv and stsb-en-test.csv")
    parser.add_argument("--ways", nargs="+", default=[*REPAIRS, *OWN_CUT])
    parser.add_argument("--cuts", nargs="+", default=list(CUTS), choices=list(CUTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    import_torchvision()  # transformers asks for it
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(given.model).eval(), AutoTokenizer.from_pretrained(given.model)
    test, rows = pairs(given.texts / "stsb-en-test.csv", None), read(NAME)
    dense = score(model, tokenizer, test)
    for seed in given.seeds:
        bench = Bench(model, tokenizer, given.texts, seed)
        for name in given.cuts:
            for way in given.ways:
                key = {"cut": name, "seed": seed, "way": way}
                if any(key.items() <= row.items() for row in rows):
                    continue
                cut = bench.cut(name, "reconstruction" if way in OWN_CUT else "l2")
                began = time.process_time()
                found = REPAIRS[OWN_CUT.get(way, way)](bench, cut)
                seconds = round(time.process_time() - began, 1)
                macs = round(cut.after.macs / cut.before.macs, 4)
                rows.append({**key, "spearman": score(found, tokenizer, test), "macs": macs, "cpu_seconds": seconds})
                print(rows[-1], flush=True)
                write(NAME, rows, dense=dense, threads=torch.get_num_threads(), test_pairs=len(test))
    into_docs(DOCS, "league-text", page(rows, dense))


def page(rows: list[dict[str, Any]], dense: float) -> str:
    """Ways down, cuts across; mean, spread and number of seeds."""
    body = [
        [way, *(cell([r["spearman"] for r in rows if (r["cut"], r["way"]) == (name, way)]) for name in CUTS)]
        for way in [*REPAIRS, *OWN_CUT]
    ]
    return f"**MiniLM**, dense {dense:.2f}\n\n{table(['100 × Spearman', *CUTS], body)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
