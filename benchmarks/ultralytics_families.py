"""Networks of Ultralytics, every generation and task, at random weights: cut to half, and used as before.

Run: python benchmarks/ultralytics_families.py [--only SUBSTRING] [--again]

Each is cut whole and within, at images of 64. Asked of the result: is it proven, is it of its class; a training step
reaches the parameters that it reaches in the dense network; ``YOLO`` predicts with it at another size; its own export
to ONNX gives in ONNX Runtime what PyTorch gives. Rows are written as they come.
Writes results/ultralytics_families.json and docs/alive.md.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import yolo
from records import into_docs, read, table, write
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur

DOCS = Path(__file__).resolve().parents[1] / "docs/alive.md"
NAMES = [
    "yolov3-tiny", "yolov3", "yolov3-spp", "yolov5n", "yolov6n", "yolov8n", "yolov8n-seg", "yolov8n-pose",
    "yolov8n-obb", "yolov8n-cls", "yolov8n-p2", "yolov8n-ghost", "yolov9t", "yolov9c", "yolov10n", "yolo11n",
    "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls", "yolo12n", "yolo12n-seg", "yolo12n-cls", "yolo26n",
    "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls",
]  # fmt: skip
SIZE = 64


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def reached(network: nn.Module) -> int:
    """Parameters that get a gradient in train mode."""
    network.train().zero_grad()
    torch.stack([t.pow(2).mean() for t in tensors(network(torch.randn(2, 3, SIZE, SIZE))) if t.requires_grad]).sum(
    ).backward()  # fmt: skip
    network.eval()
    return sum(p.grad is not None for p in network.parameters())


def predicts(model: Any) -> None:
    assert len(model.predict(torch.rand(1, 3, SIZE + 32, SIZE + 64), verbose=False)) == 1


def exports(model: Any) -> float:
    """Largest difference in ONNX Runtime of its first output, from the tensor of PyTorch's that has its shape."""
    import onnxruntime

    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        want = tensors(model.model.eval()(x))
    session = onnxruntime.InferenceSession(model.export(format="onnx", imgsz=SIZE, simplify=False, verbose=False))
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    return min(yolo.difference(got, w) for w in want if w.shape == got.shape)


def attempt(check: Any) -> Any:
    try:
        found = check()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    return "yes" if found is None else found


def one(adopt: Any, name: str, granularity: str) -> dict[str, Any]:
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(f"{name}.yaml", verbose=False)
    row: dict[str, Any] = {"network": name, "granularity": granularity}
    try:
        dense = model.model.eval()
        pruned = secateur.prune(dense, torch.randn(1, 3, SIZE, SIZE), ratio=0.5, granularity=granularity)
    except secateur.SecateurError as error:
        return {**row, "outcome": "refused", "why": str(error)[:300]}
    proof = pruned.verification
    row |= {"outcome": "cut", "backend": pruned.backend, "left": pruned.after.params / pruned.before.params,
            "difference": proof.max_relative_error, "proven": proof.proven, "notes": list(pruned.notes),
            "trains": (attempt(lambda: reached(pruned.model)), attempt(lambda: reached(dense)))}  # fmt: skip
    adopt(model, pruned)
    return row | {"predicts": attempt(lambda: predicts(model)), "exports": attempt(lambda: exports(model))}


# -------------------------------------------------------------------------------------------------------- table


def render(rows: list[dict[str, Any]]) -> str:
    cut = [r for r in rows if r["outcome"] == "cut"]
    proven = [r for r in cut if r["proven"]]
    module = [r for r in cut if r["backend"] == "module"]
    lines = [
        f"- networks: {len({r['network'] for r in rows})}, each cut whole and within: {len(rows)} cuts",
        f"- proven exact: {len(proven)} of {len(rows)}; of their class: {len(module)} of {len(rows)}",
        f"- a training step reaches as many parameters as in the dense network: {sum(map(_trains, cut))} of {len(cut)}",
        f"- `YOLO.predict` at another size: {sum(r['predicts'] == 'yes' for r in cut)} of {len(cut)}",
        f"- `YOLO.export` to ONNX, within 1e-4 in ONNX Runtime: {sum(map(_exports, cut))} of {len(cut)}",
    ]
    names = dict.fromkeys(r["network"] for r in rows)
    head = ["network", "back end", "left", "largest difference (float64)", "trains", "predicts", "ONNX, difference"]
    return "\n".join(lines) + "\n\n" + table(head, (_line([r for r in rows if r["network"] == n]) for n in names))


def _trains(row: dict[str, Any]) -> bool:
    return isinstance(row["trains"][0], int) and row["trains"][0] == row["trains"][1]


def _exports(row: dict[str, Any]) -> bool:
    return isinstance(row["exports"], float) and row["exports"] < 1e-4


def _line(several: list[dict[str, Any]]) -> list[str]:
    cut = [r for r in several if r["outcome"] == "cut"]

    def each(words: Any) -> str:
        return ", ".join(dict.fromkeys(words(r) for r in cut))

    refused = [f"{r['granularity']} refused: {r['why'].partition(' (')[0]} …" for r in several if r not in cut]
    return [several[0]["network"], ", ".join([each(lambda r: r["backend"]), *refused]),
            each(lambda r: f"{r['left']:.2f}"),
            each(lambda r: f"{r['difference']:.0e}" if r["proven"] else f"{r['granularity']} not proven"),
            each(lambda r: "yes" if _trains(r) else str(r["trains"][0])[:60]),
            each(lambda r: r["predicts"][:60]),
            each(lambda r: f"{r['exports']:.0e}" if isinstance(r["exports"], float) else r["exports"][:80]),
            ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    adopt = yolo.example()["adopt"]
    logging.disable(logging.CRITICAL)
    rows = {(r["network"], r["granularity"]): r for r in read("ultralytics_families")}
    for name in (n for n in NAMES if given.only in n):
        for granularity in ("whole", "within"):
            if given.again or (name, granularity) not in rows:
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    rows[name, granularity] = one(adopt, name, granularity)
                print({k: v for k, v in rows[name, granularity].items() if k != "notes"}, flush=True)
                ordered = [rows[n, g] for n in NAMES for g in ("whole", "within") if (n, g) in rows]
                write("ultralytics_families", ordered)
    into_docs(DOCS, "ultralytics-families", render(read("ultralytics_families")))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
