"""Half of the heads, of the head size, of the MLP width and of the embedding width, each on its own.

Run: python benchmarks/attention.py [NETWORK ...]

ViT-B/16, Swin-T and MaxViT-T with random weights; both back ends are asked for, and what the module back end
cannot do (sizes in the network's own code) is said. Writes results/attention.json and the table in
docs/coverage.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from networks import build
from records import into_docs, read, table, write

import secateur

DOCS = Path(__file__).resolve().parents[1] / "docs/coverage.md"
ATTENTION = {
    "torchvision:vit_b_16": ["encoder.layers.*.self_attention.in_proj_*"],
    "torchvision:swin_t": ["features.*.attn.qkv", "features.*.attn.relative_position_bias_table"],
    "torchvision:maxvit_t": ["blocks.*.to_qkv", "blocks.*.relative_position_bias_table"],
}
MLP = {
    "torchvision:vit_b_16": ["encoder.layers.*.mlp.0"],
    "torchvision:swin_t": ["features.*.mlp.0"],
    "torchvision:maxvit_t": ["blocks.*.mlp_layer.1"],
}


def settings(name: str) -> dict[str, dict[str, Any]]:
    """What is cut, as options of :func:`secateur.prune`."""
    return {
        "heads": {"only": ATTENTION[name], "granularity": "whole"},
        "head size": {"only": ATTENTION[name], "granularity": "within"},
        "MLP width": {"only": MLP[name]},
        "embedding width": {"ignore": [*ATTENTION[name], *MLP[name]]},
    }


def outcome(name: str, options: dict[str, Any], backend: str) -> dict[str, Any]:
    model, x = build(name)
    try:
        pruned = secateur.prune(model, x, ratio=0.5, backend=backend, **options)
    except secateur.SecateurError as error:
        return {"error": str(error)[:300]}
    assert pruned.verification is not None
    return {"difference": pruned.verification.max_relative_error, "params": pruned.after.params / pruned.before.params,
            "macs": pruned.after.macs / pruned.before.macs, "pinned": len(pruned.unsupported)}  # fmt: skip


def main(names: list[str]) -> None:
    rows = [r for r in read("attention") if r["network"] not in names]
    for name in names:
        for what, options in settings(name).items():
            rows.append(
                {"network": name, "half of": what, **{b: outcome(name, options, b) for b in ("graph", "module")}}
            )
            print(rows[-1], flush=True)
            write("attention", rows, ratio=0.5, threads=1)
    head = ["network", "half of the", "parameters left", "MACs left", "graph back end", "module back end"]
    body = [[r["network"], r["half of"], f"{r['graph']['params']:.1%}", f"{r['graph']['macs']:.1%}",
             _words(r["graph"]), _words(r["module"])] for r in rows]  # fmt: skip
    into_docs(DOCS, "attention", table(head, body))


def _words(found: dict[str, Any]) -> str:
    if "error" in found:
        return "refused: sizes in the network's own code"
    return f"exact, {found['difference']:.0e}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or list(ATTENTION))
