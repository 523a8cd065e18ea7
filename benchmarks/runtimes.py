"""Dense, pruned (half of the MACs) and pruned + int8 in every installed runtime, one image, one thread.

Run: python benchmarks/runtimes.py [--weights ADAPTED_RESNET56] [--data CIFAR10_ARCHIVE] [--seconds 20]

ResNet-18 and MobileNetV2 of torchvision at 224×224 (random weights: no model hub here, and time does not depend on
them; batch norm is re-estimated on the images so that activations are in a usual range for int8) and ResNet-56 at
32×32, trained: with data its pruned form is repaired on 512 images, and every file is scored on test images in its own
runtime. `Target(macs=0.5)`, widths in multiples of 16 (ResNet-56, 16 wide at its begin: 8). The networks of a runtime
are timed in shuffled, interleaved rounds, each in fresh processes of its own. ResNet-18 is pruned in several ways and
all of them are reported.
Writes results/runtimes.json after every network and runtime, goes on where it was stopped, and fills the tables in
docs/runtimes-measured.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Target
from secateur.core.batches import resize
from secateur.core.errors import BudgetError
from secateur.cost.counts import count
from secateur.data import DataSet
from secateur.exports.entered import entered
from secateur.models import create
from secateur.runtimes import RUNTIMES, installed
from secateur.timing import Entrant, latency
from secateur.timing.quality import scores
from secateur.timing.results import results

DOCS = Path(__file__).resolve().parents[1] / "docs/runtimes-measured.md"
SIDES = {"resnet18": 224, "mobilenet_v2": 224, "resnet56": 32}
WAYS: dict[str, dict[str, Any]] = {
    "local, 16": {"scope": "local", "round_to": 16},
    "local, 8": {"scope": "local", "round_to": 8},
    "local, 32": {"scope": "local", "round_to": 32},
    "global, 16": {"scope": "global", "round_to": 16, "min_units": 16},
    "global, 32": {"scope": "global", "round_to": 32, "min_units": 32},
    "local, 16, whole stem": {"scope": "local", "round_to": 16, "ignore": ("conv1",)},
    "inside blocks, 16": {"scope": "local", "round_to": 16, "only": ("*.conv1",)},
    "inside blocks, 8": {"scope": "local", "round_to": 8, "only": ("*.conv1",)},
}
# ResNet-56 begins 16 wide: in steps of 16 it cannot lose half of its MACs.
MAIN = {"resnet18": "local, 16", "mobilenet_v2": "local, 16", "resnet56": "local, 8"}
# The others also in LiteRT: what it takes to be five times as fast with int8.
OTHERS = {
    "resnet18": [way for way in WAYS if way not in (MAIN["resnet18"], "inside blocks, 8")],
    "mobilenet_v2": ["local, 32", "global, 16"],
    "resnet56": ["inside blocks, 8"],  # in multiples of 16 it cannot lose half of its MACs
}


def build(name: str, weights: str | None) -> nn.Module:
    torch.manual_seed(0)
    if name == "resnet56":
        return create("resnet56", weights=weights).eval()
    return create(f"torchvision:{name}").eval()


def cifar(data: str) -> DataSet:
    """CIFAR-10 as the networks expect it."""
    return secateur.data.load(data, limit=4000).with_normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images_for(name: str, data: str | None, amount: int) -> Tensor:
    """Real CIFAR images, scaled up where the network wants larger ones; noise without ``--data``."""
    side = SIDES[name]
    if data is None:
        return torch.randn(amount, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = cifar(data).sample(amount)
    return images if side == 32 else F.interpolate(images, size=(side, side), mode="bilinear")


def settle(model: nn.Module, images: Tensor) -> nn.Module:
    """Statistics of batch norm from the images, as a trained network has them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for start in range(0, len(images), 16):
            model(images[start : start + 16])
    return model.eval()


def measure(name: str, way: str, runtime: str, images: Tensor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one network, pruned in one way, in one runtime."""
    dense = build(name, args.weights)
    if name != "resnet56" or args.weights is None:
        dense = settle(dense, images[:64])
    cut = secateur.prune(dense, images[:2], target=Target(macs=0.5), **WAYS[way])
    trained = name == "resnet56" and args.data and args.weights
    if trained:
        cut = secateur.recover(cut, images_for(name, args.data, 512), dense=dense)
    models = {"dense": dense, "pruned": cut.model}
    counts = {role: count(model, images[:2]) for role, model in models.items()}
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {"runtimes": [runtime], "batches": (1,)}
        found = list(entered(models, images[:8], Path(folder), **given, calibration=images[:128]))
        timings = timed(found, images, args)
        evaluations = scores(found, cifar(args.data), images=args.test_images) if trained else {}
        params = {role: c.params for role, c in counts.items()}
        lines = results(found, timings, reference="dense", params=params, evaluations=evaluations)
    shared = {"network": name, "way": way, "runtime": runtime, "version": RUNTIMES[runtime].version()}
    macs = {role: c.macs for role, c in counts.items()}
    return [
        {**asdict(line), **shared, "form": line.network, "macs": macs[line.network],
         "mac_reduction": round(macs["dense"] / macs[line.network], 3)}
        for line in lines
    ]  # fmt: skip


def timed(found: list[Entrant], images: Tensor, args: argparse.Namespace) -> Any:
    entrants = [entrant for entrant in found if not entrant.problem]
    options = {"rounds": args.rounds, "budget_s": args.seconds, "processes": args.processes}
    return latency(entrants, resize(images, 1), batches=(1,), backward=False, **options) if entrants else ()


def document(rows: list[dict[str, Any]]) -> None:
    """Fills the tables and the two claims."""
    if not DOCS.exists():
        return
    shown = [row for row in rows if row["way"] == MAIN[row["network"]]]
    shown.sort(key=lambda row: (list(SIDES).index(row["network"]), where(row)))
    into_docs(DOCS, "TABLE", table(HEAD, [line(row) for row in shown]))
    ways = [row for row in rows if row["network"] == "resnet18" and row["runtime"] == "onnxruntime"]
    into_docs(DOCS, "WAYS", table(WAYS_HEAD, [way_line(row) for row in ways if row["form"] == "pruned"]))
    into_docs(DOCS, "CLAIMS", "\n".join(claims(rows)))


HEAD = ["Network", "Runtime", "Form", "ms (quartiles)", "Speed-up (quartiles)", "MAC reduction", "Size", "Differs by",
        "Top-1"]  # fmt: skip
WAYS_HEAD = ["Way", "Precision", "MAC reduction", "Speed-up (quartiles)", "Speed-up / MAC reduction"]


def spread(value: dict[str, Any] | None, digits: int, unit: str = "") -> str:
    if value is None:
        return "–"
    return f"{value['median']:.{digits}f}{unit} ({value['q25']:.{digits}f}–{value['q75']:.{digits}f})"


def form(row: dict[str, Any]) -> str:
    return row["form"] + (" + int8" if row["precision"] == "int8" else "")


def where(row: dict[str, Any]) -> str:
    """The runtime and its version."""
    return row["version"] + (", compiled" if row["runtime"] == "compiled" else "")


def line(row: dict[str, Any]) -> list[str]:
    if row["problem"]:
        return [row["network"], row["runtime"], form(row), f"does not run: {row['problem']}", "–", "–", "–", "–", "–"]
    differs = "–" if row["difference"] is None else f"{row['difference']:.1e}"
    size = "–" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f} MB"
    reduction = f"{row['mac_reduction']:.2f}×"
    times = [spread(row["ms"], 2), spread(row["speedup"], 2, "×")]
    right = "–" if row["top1"] is None else f"{row['top1']:.2f} %"
    return [row["network"], where(row), form(row), *times, reduction, size, differs, right]


def way_line(row: dict[str, Any]) -> list[str]:
    share = "–" if row["speedup"] is None else f"{row['speedup']['median'] / row['mac_reduction']:.2f}"
    words = [row["way"], row["precision"], f"{row['mac_reduction']:.2f}×"]
    return [*words, spread(row["speedup"], 2, "×"), share]


def claims(rows: list[dict[str, Any]]) -> list[str]:
    """The two claims, computed from the rows."""
    found = []
    in_onnx = [r for r in rows if (r["network"], r["runtime"]) == ("resnet18", "onnxruntime") and r["speedup"]]
    plain = [r for r in in_onnx if (r["form"], r["precision"]) == ("pruned", "float32")]
    for row in sorted(plain, key=lambda r: -r["speedup"]["median"] / r["mac_reduction"]):
        share = row["speedup"]["median"] / row["mac_reduction"]
        verdict = "holds" if share >= 0.9 else "**does not hold**"
        ratios = f"{row['speedup']['median']:.2f}× for {row['mac_reduction']:.2f}× fewer MACs, {share:.2f} of it"
        found.append(f"- Pruned ResNet-18 in ONNX Runtime ({row['way']}): {ratios}; at least 0.9: {verdict}.")
    for row in rows:
        told = row["network"] != "resnet18" or row["way"] == MAIN["resnet18"]
        if (row["form"], row["precision"]) == ("pruned", "int8") and row["speedup"] and told:
            verdict = "holds" if row["speedup"]["median"] >= 5 else "**does not hold**"
            words = f"{row['speedup']['median']:.2f}× as fast as dense float32; at least 5×: {verdict}."
            found.append(f"- Pruned + int8 {row['network']} in {row['runtime']} ({row['way']}): {words}")
    return found


def plan(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Every (network, way, runtime), the main table first."""
    here = args.runtimes or [r for r in RUNTIMES if installed(RUNTIMES[r]) and not RUNTIMES[r].slow_to_start]
    main = [(name, MAIN[name], runtime) for name in args.networks for runtime in here]
    others = [
        (name, way, runtime)
        for name, ways in OTHERS.items()
        for way in ways
        for runtime in ("onnxruntime", "litert")
        if name in args.networks and runtime in here and (name != "resnet18" or runtime == "onnxruntime")
    ]
    return main + others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="ResNet-56 for CIFAR-10")
    parser.add_argument("--data", help="CIFAR-10, as secateur.data.load takes it")
    parser.add_argument("--networks", nargs="*", default=list(SIDES))
    parser.add_argument("--runtimes", nargs="*")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--test-images", type=int, default=4000)
    args = parser.parse_args()
    rows = read("runtimes")
    for name, way, runtime in plan(args):
        if any((r["network"], r["way"], r["runtime"]) == (name, way, runtime) for r in rows):
            continue
        try:
            rows += measure(name, way, runtime, images_for(name, args.data, 128), args)
        except BudgetError as error:
            print(name, way, runtime, error, sep="; ", flush=True)
            continue
        write("runtimes", rows, rounds=args.rounds, processes=args.processes, threads=1, images=bool(args.data))
        document(rows)
        print(name, way, runtime, *(f"{form(r)}: {spread(r['ms'], 2)}" for r in rows[-3:]), sep="; ", flush=True)
    document(rows)


if __name__ == "__main__":
    main()
