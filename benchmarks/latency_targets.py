"""Latency targets: what is reached, and what is kept against uniform pruning at the same measured latency.

Run: python benchmarks/latency_targets.py [--data CIFAR10 --weights FOLDER] [--runtimes onnxruntime openvino]

1. torchvision's ResNet-18, MobileNetV2 and EfficientNet-B0 at 224×224 (random weights, batch-norm scales drawn from
   [0.1, 1]), half the dense latency, one thread, batch 1, by |batch-norm scale|. Reached is measured afterwards: dense,
   latency-aware and uniform in the same rounds, in fresh processes.
2. CIFAR-10: trained ResNet-20 and ResNet-56 by the Taylor criterion and by `reconstruction`, on 512 images, three
   draws of them; accuracy with batch-norm statistics and with least squares on the same 512 images, untrained,
   and at half the time after one epoch on 5,000 images with the dense network as teacher.

Uniform takes the same share of every group (scope local), by the same criterion, and is driven to the same measured
latency by the same correction; on CIFAR in multiples of 16 and of 8, because it may like finer widths better.
Rows that are there are not done again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur import Pruned, Target
from secateur.core.errors import BudgetError
from secateur.exports import export
from secateur.models import create, normalisation
from secateur.models._torchvision import import_torchvision
from secateur.runtimes import RUNTIMES
from secateur.timing import latency
from secateur.timing.entrants import Entrant

NAME = "latency_targets"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "latency-targets.md"
LARGE = ("resnet18", "mobilenet_v2", "efficientnet_b0")
SMALL = (("resnet20", 0.5), ("resnet56", 0.5), ("resnet20", 0.7), ("resnet56", 0.7))
WAYS: Mapping[str, dict[str, Any]] = {
    "latency-aware": {},
    "uniform, multiples of 16": {"scope": "local"},
    "uniform, multiples of 8": {"scope": "local", "round_to": 8},
}
SELECTED = {f"{way}, by reconstruction": WAYS[way] for way in ("latency-aware", "uniform, multiples of 8")}
IMAGES, TEST_IMAGES, TRAIN_IMAGES, TRAINED_AT = 512, 4000, 5000, 0.5

Row = dict[str, Any]


def random_network(name: str) -> nn.Module:
    """A torchvision network with random weights and batch-norm scales that tell its channels apart."""
    torch.manual_seed(0)
    model: nn.Module = getattr(import_torchvision().models, name)().eval()
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 0.1 + 0.9 * torch.rand(module.weight.shape, generator=draw)
    return model


def cut(model: nn.Module, x: Tensor, wanted: float, runtime: str, **options: Any) -> tuple[Pruned, Row]:
    """Cuts to a share of the latency; returns the network and what the cut itself said."""
    start = time.perf_counter()
    pruned = secateur.prune(model, x, target=Target(latency=wanted, runtime=runtime), **options)
    return pruned, _said(pruned, time.perf_counter() - start)


def selected(model: nn.Module, images: Tensor, wanted: float, runtime: str, **options: Any) -> tuple[Pruned, Row]:
    """The same by what a repair makes good."""
    start = time.perf_counter()
    pruned = secateur.prune(model, images[:1], target=Target(latency=wanted, runtime=runtime),
                            criterion="reconstruction", data=images, **options)  # fmt: skip
    return pruned, _said(pruned, time.perf_counter() - start)


def _said(pruned: Pruned, seconds: float) -> Row:
    said = pruned.plan.provenance["latency"]
    return {
        "seconds": seconds,
        "score_kept": said["score_kept"],
        "reached_by_its_own_count": said["reached"],
        "networks_measured": said["networks_measured"],
        "mac_reduction": pruned.before.macs / pruned.after.macs,
        "widths": {c.group.name: c.kept for c in pruned.groups},
    }


def measured(networks: Mapping[str, nn.Module], x: Tensor, runtime: str) -> dict[str, dict[str, float]]:
    """Shares of the dense latency, per round, in fresh processes; median and quartiles."""
    with tempfile.TemporaryDirectory() as folder:
        entrants = []
        for number, (name, network) in enumerate(networks.items()):
            path = Path(folder) / f"{number}{RUNTIMES[runtime].suffix}"
            export(network, x, path)
            entrants.append(Entrant(name, path, runtime, trust=True))
        times = latency(entrants, x, batches=(1,), backward=False, rounds=60, budget_s=12.0, processes=2)
    samples = {t.model: t.samples_ms for t in times}
    found = {}
    for name, values in samples.items():
        shares = [a / b for a, b in zip(values, samples["dense"], strict=True)]
        low, middle, high = statistics.quantiles(shares, n=4)
        found[name] = {"reached": middle, "q25": low, "q75": high, "ms": statistics.median(values)}
    return found


def large(runtime: str, done: list[Row]) -> Iterator[Row]:
    """Half the latency of networks at 224×224: aware of it, and uniformly."""
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for name in LARGE:
        if any(r["network"] == name and r["runtime"] == runtime for r in done):
            continue
        model = random_network(name)
        ways = {way: cut(model, x, 0.5, runtime, criterion="bn_scale", **WAYS[way]) for way in list(WAYS)[:2]}
        found = measured({"dense": model, **{way: pruned.model for way, (pruned, _) in ways.items()}}, x, runtime)
        for way, (_, row) in ways.items():
            more = {"dense_ms": found["dense"]["ms"]} | found[way]
            yield {"part": "large", "network": name, "runtime": runtime, "wanted": 0.5, "way": way, **row, **more}


def small(data: str, weights: Path, done: list[Row]) -> Iterator[Row]:
    """Accuracy of CIFAR networks at the same latency, without training."""
    for name, wanted in SMALL:
        for seed in (0, 1, 2):
            model = create(name, weights=weights / f"{name}-cifar10.safetensors").eval()
            batches, test = _images(data, name, seed)
            for way in (*WAYS, *SELECTED):
                key = {"part": "small", "network": name, "wanted": wanted, "way": way, "seed": seed}
                if any(key.items() <= r.items() for r in done):
                    continue
                pruned, row = _small(model, wanted, way, batches, test)
                if pruned is not None and wanted == TRAINED_AT:
                    row["one_epoch"] = trained(data, name, seed, pruned.model, model, test)
                yield key | {"runtime": "onnxruntime"} | row


def _images(data: str, name: str, seed: int) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    from secateur.data import load

    known = normalisation(name)
    assert known is not None
    found = load(data).with_normalisation(*known)
    test = found.labelled(TEST_IMAGES, split="test", seed=0, batch_size=500)
    return list(found.labelled(IMAGES, seed=seed)), list(test)


def _small(
    model: nn.Module, wanted: float, way: str, batches: list[tuple[Tensor, Tensor]], test: list[tuple[Tensor, Tensor]]
) -> tuple[Pruned | None, Row]:
    """The repaired network and its row; no network where the target is refused."""
    images = torch.cat([images for images, _ in batches])
    try:
        if way in SELECTED:
            pruned, row = selected(model, images, wanted, "onnxruntime", **SELECTED[way])
        else:
            given: dict[str, Any] = {"criterion": "taylor", "data": batches, **WAYS[way]}
            pruned, row = cut(model, images[:1], wanted, "onnxruntime", **given)
    except BudgetError as error:
        return None, {"refused": str(error), "dense_accuracy": accuracy(model, test)}
    row["dense_accuracy"], row["as_cut"] = accuracy(model, test), accuracy(pruned.model, test)
    for method in ("batch_norm", "least_squares"):
        fixed = secateur.recover(pruned, images, dense=model, method=method)
        row[method] = accuracy(fixed.model, test)
    return fixed, row | measured({"dense": model, "pruned": pruned.model}, images[:1], "onnxruntime")["pruned"]


def trained(
    data: str, name: str, seed: int, model: nn.Module, dense: nn.Module, test: list[tuple[Tensor, Tensor]]
) -> float:
    """Accuracy after one epoch of fine-tuning, which changes ``model``."""
    from secateur.data import load
    from secateur.train import Distill, TrainConfig, fit

    known = normalisation(name)
    assert known is not None
    whole = load(data, validation=0.05).with_normalisation(*known)
    order = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))
    few = replace(whole, train=whole.train.subset(order[:TRAIN_IMAGES]), validation=whole.validation.subset(range(500)))
    fit(model, few, TrainConfig(epochs=1, lr=0.02, batch_size=128, precision="bf16"), seed=seed,
        extras=[Distill(dense, weight=0.5)])  # fmt: skip
    return accuracy(model, test)


def accuracy(model: nn.Module, test: list[tuple[Tensor, Tensor]]) -> float:
    """Share of the test images that are named rightly."""
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test)
    return right / sum(len(labels) for _, labels in test)


# ------------------------------------------------------------------------------------------------------- tables


def large_table(rows: list[Row]) -> str:
    """One line per network, runtime and way."""
    head = [
        "Network",
        "Runtime",
        "Way",
        "Share of dense time (quartiles)",
        "ms (dense)",
        "Score kept",
        "MACs",
        "Cut in",
    ]
    found = [r for r in rows if r["part"] == "large"]
    lines = [
        [r["network"], r["runtime"], r["way"], f"{r['reached']:.1%} ({r['q25']:.1%}–{r['q75']:.1%})",
         f"{r['ms']:.2f} ({r['dense_ms']:.2f})", f"**{r['score_kept']:.1%}**", f"÷ {r['mac_reduction']:.2f}",
         f"{r['seconds']:.0f} s"]
        for r in sorted(found, key=lambda r: (r["runtime"], LARGE.index(r["network"])))
    ]  # fmt: skip
    return table(head, lines)


def small_table(rows: list[Row]) -> str:
    """One line per network, target and way: mean over the draws and their range."""
    head = ["Network", "Target", "Way", "Reached", "Score kept", "Batch-norm statistics", "Least squares", "One epoch",
            "Draws"]  # fmt: skip
    lines = []
    for name, wanted in SMALL:
        for way in (*WAYS, *SELECTED):
            found = [
                r for r in rows if (r["part"], r["network"], r["wanted"], r["way"]) == ("small", name, wanted, way)
            ]
            cuts = [r for r in found if "refused" not in r]
            if found and not cuts:
                lines.append([name, f"{wanted:.0%}", way, "refused: below its floor", "–", "–", "–", "–", len(found)])
            if cuts:
                lines.append([name, f"{wanted:.0%}", way, *(_mean(cuts, k) for k in _COLUMNS), len(cuts)])
    return table(head, lines)


_COLUMNS = ("reached", "score_kept", "batch_norm", "least_squares", "one_epoch")


def _mean(rows: list[Row], key: str) -> str:
    values = [100 * r[key] for r in rows if key in r]
    if not values:
        return "–"
    spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f} %{spread}"


def main() -> None:
    """Does what is not there yet, row by row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="CIFAR-10, as secateur.data.load takes it")
    parser.add_argument("--weights", type=Path, help="folder of resnet20- and resnet56-cifar10.safetensors")
    parser.add_argument("--runtimes", nargs="*", default=["onnxruntime", "openvino"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(NAME)
    parts = [large(runtime, rows) for runtime in arguments.runtimes]
    if arguments.data:
        parts.append(small(arguments.data, arguments.weights, rows))
    for part in parts:
        for row in part:
            rows.append(row)
            write(NAME, rows, threads=1, batch=1, runtimes={r: RUNTIMES[r].version() for r in arguments.runtimes})
            print({k: v for k, v in row.items() if k != "widths"}, flush=True)
    if DOCS.exists():
        into_docs(DOCS, "large", large_table(rows))
        into_docs(DOCS, "small", small_table(rows))


if __name__ == "__main__":
    main()
