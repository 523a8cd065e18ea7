"""Training throughput: Secateur's loop beside a plain PyTorch loop, on the same network, images and machine.

Run: python benchmarks/throughput.py --data CIFAR10_ARCHIVE [--images 4000] [--rounds 3] [--threads 2]

The plain loop is what most scripts do: torchvision's per-image transforms (random crop of the padded image,
mirroring, tensor, normalisation) on PIL images in a DataLoader, float32, SGD; once without and once with
two workers. Secateur's is `secateur.train.fit` with bf16 and channels-last (its setting for sets like this), for what
precision brings in float32, and with its steps through torch.compile: there the epoch after the one that waits for the
compiler counts, and what that one took longer is given apart. All train on the same images, in turn, round by round;
images per second of one epoch, the median over the rounds with the lowest and the highest. Writes
results/throughput.json and the table in docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from records import into_docs, table, write
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from secateur.data import DataSet, load
from secateur.models import create
from secateur.models._torchvision import import_torchvision
from secateur.train import TrainConfig, fit

DOCS = Path(__file__).resolve().parents[1] / "docs/finetuning.md"
BATCH, NAME = 128, "throughput"


class Images(Dataset[Any]):  # type: ignore[misc]
    """PIL images with torchvision's transforms, as image folders and torchvision's CIFAR10 give them."""

    def __init__(self, data: DataSet) -> None:
        import_torchvision()
        from torchvision import transforms as T

        self.images = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in data.train.images]  # type: ignore[union-attr]
        self.labels = data.train.labels.tolist()
        self.transform = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(),
                                    T.Normalize(data.mean, data.std)])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain(name: str, images: Images, workers: int) -> float:
    """Images per second of one epoch of a plain loop."""
    torch.manual_seed(0)
    model = create(name, classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers)
    start = time.perf_counter()
    for inputs, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return len(images) / (time.perf_counter() - start)


def ours(name: str, data: DataSet, precision: str) -> float:
    """Images per second of one epoch of `secateur.train.fit`, everything before the epoch left out for both."""
    torch.manual_seed(0)
    model: nn.Module = create(name, classes=10)
    config = TrainConfig(epochs=1, batch_size=BATCH, precision=precision)  # type: ignore[arg-type]
    return fit(model, data, config, progress=False).epochs[0].samples_per_second


def compiled(name: str, data: DataSet) -> tuple[float, float]:
    """Images per second of the second epoch with compiled steps, and the seconds that the first one took longer."""
    torch.manual_seed(0)
    model: nn.Module = create(name, classes=10)
    config = TrainConfig(epochs=2, batch_size=BATCH, precision="bf16", compile=True)
    first, second = (e.samples_per_second for e in fit(model, data, config, progress=False).epochs)
    return second, len(data.train) * (1 / first - 1 / second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as secateur.data.load takes it")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--name", default=NAME, help="of the results; under another one the page stays as it is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.data, limit=options.images, validation=0)
    images, rows = Images(data), []
    for name in options.networks:
        waited: list[float] = []

        def through_compiler(n: str = name, waited: list[float] = waited) -> float:
            speed, seconds = compiled(n, data)
            waited.append(seconds)
            return speed

        ways = {
            "plain loop, no workers": lambda n=name: plain(n, images, 0),
            "plain loop, 2 workers": lambda n=name: plain(n, images, 2),
            "Secateur, float32": lambda n=name: ours(n, data, "32"),
            "Secateur, bf16": lambda n=name: ours(n, data, "bf16"),
            "Secateur, bf16, compiled": through_compiler,
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, run in ways.items():
                found[way].append(run())
                print(f"{name:10s} {way:25s} {found[way][-1]:8.0f} images/s", flush=True)
        rows += [{"network": name, "loop": way, "images_per_second": speeds} for way, speeds in found.items()]
        rows[-1]["compiler_seconds"] = waited
        write(options.name, rows, threads=options.threads, images=len(images), batch_size=BATCH, data="cifar10 (JPEG)")
    print(render(rows))
    if options.name == NAME:
        into_docs(DOCS, NAME, render(rows))


def render(rows: list[dict[str, Any]]) -> str:
    """Medians and spread; the ratio is against the faster plain loop of the same round."""
    body = []
    for row in rows:
        same = [r for r in rows if r["network"] == row["network"] and r["loop"].startswith("plain")]
        best = [max(pair) for pair in zip(*(r["images_per_second"] for r in same), strict=True)]
        ratio = median(a / b for a, b in zip(row["images_per_second"], best, strict=True))
        speeds = row["images_per_second"]
        wait = f"{max(row['compiler_seconds']):.0f} s" if "compiler_seconds" in row else "–"
        body.append([row["network"], row["loop"], f"{median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})",
                     f"{ratio:.2f}×", wait])  # fmt: skip
    head = [
        "network",
        "loop",
        "images/s, median (lowest–highest)",
        "against the faster plain loop",
        "compiler, at most",
    ]
    return table(head, body)


if __name__ == "__main__":
    main()
