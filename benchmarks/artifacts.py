"""Artifacts beside .pt2 files: how long they take to load and to run, and what of the data is in them.

Run: python benchmarks/artifacts.py [times|sizes ...]

times: ResNet-50 and ViT-B/16 (torchvision, random weights), a quarter of every group removed, saved with graph.json and
exported to .pt2. In every round each is loaded once, in an order that changes, and the two are run in turns; one
thread. sizes: a small network pruned, saved and exported with an example batch that is a slice of 400 images, and with
a batch that stands alone; bytes of every file. Writes results/artifacts.json and the tables in docs/artifacts.md.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import randomised
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.models import create
from secateur.runtimes import installed
from secateur.runtimes.formats import writers
from secateur.runtimes.pytorch import read_program
from secateur.timing import latency

DOCS = Path(__file__).resolve().parents[1] / "docs/artifacts.md"
NETWORKS = {"ResNet-50": "torchvision:resnet50", "ViT-B/16": "torchvision:vit_b_16"}
ROUNDS = 15


def times() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    rows = []
    for title, name in NETWORKS.items():
        torch.manual_seed(0)
        model = randomised(create(name)).eval()
        x = torch.randn(1, 3, 224, 224)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            pruned = secateur.prune(model, x, ratio=0.25, backend="graph")
            pruned.save(place / "artifact")
            secateur.export(pruned.model, x, place / "small.pt2", "pt2")
            ways: dict[str, Callable[[], nn.Module]] = {
                "graph.json": lambda p=place: secateur.load(p / "artifact"),
                ".pt2": lambda p=place: read_program(p / "small.pt2", trust=True).module(),
            }
            seconds = interleaved(ways)
            loaded = {way: load() for way, load in ways.items()}
            with torch.no_grad():
                outputs = [network(x) for network in loaded.values()]
            timings = latency(loaded, x, batches=(1,), backward=False, rounds=30, budget_s=120)
            run = {t.model: t.samples_ms for t in timings}
            rows.append({
                "network": title, "params": pruned.after.params, "rounds": ROUNDS, "load_s": seconds,
                "run_ms": {way: list(samples) for way, samples in run.items()},
                "difference": float((outputs[0] - outputs[1]).abs().max()),
                "bytes": {"graph.json": size(place / "artifact"), ".pt2": (place / "small.pt2").stat().st_size},
            })  # fmt: skip
    return rows


def interleaved(ways: dict[str, Callable[[], nn.Module]]) -> dict[str, list[float]]:
    """Seconds of every call, after one that does not count."""
    order, found = random.Random(0), {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name in order.sample(list(ways), len(ways)):
            start = time.perf_counter()
            ways[name]()
            if round_:
                found[name].append(time.perf_counter() - start)
    return found


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sizes() -> list[dict[str, Any]]:
    images = torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = {"slice": images[:2], "alone": images[:2].clone(), "other": torch.zeros(2, 3, 32, 32)}
    found: dict[str, dict[str, Any]] = {}
    for title, x in batches.items():
        # Each in a process of its own: OpenVINO numbers its operators from the start of the process.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            files = pool.apply(files_of, (x,))
        for name, data in files.items():
            row = found.setdefault(name, {"file": name, "images_bytes": images.numel() * 4})
            row[f"{title}_bytes"] = len(data)
            row[f"{title}_sha256"] = hashlib.sha256(data).hexdigest()
            row[f"{title}_holds_pixels"] = holds(data, images)
    return list(found.values())


def files_of(x: Tensor) -> dict[str, bytes]:
    """Everything that is written of a pruned network, by name."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pruned = secateur.prune(randomised(net).eval(), x, ratio=0.5)
        pruned.save(place / "artifact", graph=True)
        for to, runtime in writers().items():
            if installed(runtime):
                secateur.export(pruned.model, x, place / f"small{runtime.suffix}", to)
        return {str(f.relative_to(place)): f.read_bytes() for f in sorted(place.rglob("*")) if f.is_file()}


def holds(data: bytes, images: Tensor) -> int:
    """How many of 400 images have their first 16 bytes in a file."""
    return sum(image.contiguous().numpy().tobytes()[:16] in data for image in images)


def tables(rows: list[dict[str, Any]]) -> None:
    timed = [r for r in rows if "load_s" in r]
    if timed:
        head = ["network", "parameters", "load graph.json, s", "load .pt2, s", "ratio", "run graph.json, ms",
                "run .pt2, ms", "ratio"]  # fmt: skip
        lines = []
        for row in timed:
            cells: list[Any] = [row["network"], f"{row['params']:,}"]
            for key in ("load_s", "run_ms"):
                one, other = row[key]["graph.json"], row[key][".pt2"]
                ratios = [a / b for a, b in zip(one, other, strict=True)]
                cells += [spread(one), spread(other), spread(ratios)]
            lines.append(cells)
        into_docs(DOCS, "times", table(head, lines))
    sized = [r for r in rows if "file" in r]
    if sized:
        head = ["file", "example is a slice of 400 images", "stands alone", "same bytes", "images found in it"]
        lines = [
            [r["file"], f"{r['slice_bytes']:,}", f"{r['alone_bytes']:,}",
             "yes" if r["slice_sha256"] == r["alone_sha256"] else "no, same size" if
             r["slice_bytes"] == r["alone_bytes"] else "no", r["slice_holds_pixels"]]
            for r in sized
        ]  # fmt: skip
        into_docs(DOCS, "sizes", table(head, lines))


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def main() -> None:
    kinds = {"times": (times, "load_s"), "sizes": (sizes, "file")}
    rows = read("artifacts")
    for kind in sys.argv[1:] or kinds:
        make, key = kinds[kind]
        rows = [row for row in rows if key not in row] + make()
        write("artifacts", rows, threads=1)
    tables(rows)


if __name__ == "__main__":
    main()
