"""Tables 2 and 3 of the survey on CIFAR-10: VGG-16 by ThiNet-Conv, -GAP and -Tiny, from scratch, and SqueezeNet.

    python benchmarks/thinet.py [--data ARCHIVE] [--work FOLDER]     goes on where it was stopped
    python benchmarks/thinet.py --time                               forward and backward ms alone, on a quiet machine
    python benchmarks/thinet.py --limit 300                          a trial: nothing is written

Conv and Tiny are the built-in recipes `thinet` and `thinet-tiny` on the dense network of benchmarks/dense.py: a layer
at a time, one epoch after each, and EPOCHS more at the end; Conv's form is trained from fresh weights for as long as
the dense network was. GAP is Conv's network with global average pooling and one linear layer in place of the fully
connected ones, trained on (Luo et al. 2017, §4.2). Writes results/thinet.json and the table of docs/survey.md.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from dense import NETWORKS, from_dense, images, parser, trained
from records import into_docs, read, table, write
from torch import nn

from secateur.cost.counts import count
from secateur.timing import latency
from secateur.train import TrainConfig, evaluate, fit
from secateur.train.precision import fast_bf16

DOCS = Path(__file__).resolve().parents[1] / "docs/survey.md"
EPOCHS = 6
TEN = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30]
"""The convolutions of the first four stages."""
LAST = 40
PAPER = {
    "Original": (68.34, 88.44, 138.34, 30.94, 189.92, 407.56),
    "ThiNet-Conv": (69.80, 89.53, 131.44, 9.58, 76.71, 152.05),
    "Conv's form from scratch": (67.00, 87.45, 131.44, 9.58, 76.71, 152.05),
    "ThiNet-GAP": (67.34, 87.92, 8.32, 9.34, 71.73, 145.51),
    "ThiNet-Tiny": (59.34, 81.97, 1.32, 2.01, 29.51, 55.83),
    "SqueezeNet": (57.67, 80.39, 1.24, 1.72, 37.30, 68.62),
}
"""Table 2 of the survey: top-1, top-5 (%), parameters (millions), FLOPs (billions), forward and backward (ms).

What it calls FLOPs are multiply-accumulates."""


def gap(conv: nn.Module) -> nn.Module:
    """Global average pooling and one linear layer behind the convolutions."""
    features = copy.deepcopy(conv.features)
    assert isinstance(features, nn.Sequential)
    width = next(m.out_channels for m in reversed(list(features)) if isinstance(m, nn.Conv2d))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def networks(given: Any) -> dict[str, nn.Module]:
    """All six, trained."""
    short = 1 if given.limit else None
    options = {"data": given.data, "work": given.work, "limit": given.limit}
    dense = trained("vgg16", **options, epochs=short)
    tune, scratch = short or EPOCHS, short or NETWORKS["vgg16"].epochs
    each = [f"steps.scratch.epochs={scratch}", "steps.finetune.lr=0.01", "steps.recover.images=512"]
    found = {"Original": dense}
    ten = ", ".join(f"features.{k}" for k in TEN)
    conv = from_dense(
        "thinet", dense, given.work / "thinet", data=given.data, limit=given.limit,
        settings=[*each, f"steps.prune.only=[{ten}]"],
    )  # fmt: skip
    found["ThiNet-Conv"] = tuned(conv.state.pruned, "conv", tune, given)
    found["Conv's form from scratch"] = conv.state.others["scratch"]
    found["ThiNet-GAP"] = tuned(gap(found["ThiNet-Conv"]), "gap", tune, given)
    ratios = f'{{"features.*": 0.75, features.{LAST}: 0.5}}'
    pooled = tuned(gap(dense), "pooled", short or 2, given)
    tiny = from_dense(
        "thinet-tiny", pooled, given.work / "thinet-tiny", data=given.data, limit=given.limit,
        settings=[*each[1:], "steps.scratch.epochs=0", f"steps.prune.ratio={ratios.replace('features', '0')}"],
    )  # fmt: skip
    found["ThiNet-Tiny"] = tuned(tiny.state.pruned, "tiny", tune, given)
    found["SqueezeNet"] = trained("squeezenet", **options, epochs=short)
    return found


def tuned(network: Any, name: str, epochs: int, given: Any) -> nn.Module:
    """Trained on from the weights that it has."""
    model: nn.Module = copy.deepcopy(getattr(network, "model", network))
    config = TrainConfig(epochs=epochs, lr=0.02, precision="bf16" if fast_bf16() else "32")
    fit(model, images(given.data, given.limit), config, folder=given.work / f"thinet-tuned-{name}", name=name)
    return model.eval()


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument(
        "--time", action="store_true", help="forward and backward ms of what is trained, and the table"
    )
    given = options.parse_args()
    found = networks(given)
    test = images(given.data, given.limit).test
    before = {row["network"]: row.get("ms") for row in read("thinet")}
    rows = []
    for name, model in found.items():
        quality, size = evaluate(model, images(given.data, given.limit), test), count(model, torch.zeros(1, 3, 32, 32))
        rows.append({"network": name, "top1": quality.top1, "top5": quality.top5, "loss": quality.loss,
                     "params": size.params, "macs": size.macs, "ms": before.get(name)})  # fmt: skip
    if given.time:
        torch.set_num_threads(1)
        for timing in latency(found, torch.zeros(1, 3, 32, 32), batches=(32,), rounds=30, budget_s=120):
            row = next(row for row in rows if row["network"] == timing.model)
            row["ms"] = {**(row["ms"] or {}), timing.direction: timing.median_ms}
    text = page(rows)
    print(text)
    if given.limit is None:
        write("thinet", rows, seeds=1, test_images=len(test))
        into_docs(DOCS, "thinet", text)


def page(rows: list[dict[str, Any]]) -> str:
    """The columns of the survey, ours and then its own."""
    body = []
    for row in rows:
        top1, top5, params, flops, forward, backward = PAPER[row["network"]]
        ms = row["ms"] or {}
        own = [f"{ms[key]:.1f}" if key in ms else "–" for key in ("forward", "backward")]
        body.append([row["network"], f"{row['top1']:.2f}", f"{row['top5']:.2f}", f"{row['params'] / 1e6:.2f}",
                     f"{row['macs'] / 1e6:.1f}", "/".join(own), f"{top1:.2f}", f"{top5:.2f}", f"{params:.2f}",
                     f"{flops:.2f}", f"{forward:.1f}/{backward:.1f}"])  # fmt: skip
    head = ["", "Top-1, %", "Top-5, %", "Parameters, M", "MACs, M", "Forward/backward, ms",
            "Survey (ImageNet): top-1, %", "Top-5, %", "Parameters, M", "MACs, B", "Forward/backward, ms"]  # fmt: skip
    return table(head, body)


if __name__ == "__main__":
    main()
