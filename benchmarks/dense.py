"""Dense networks on CIFAR-10 or MNIST that the experiments of the source systems share: trained once, kept in a folder.

    python benchmarks/dense.py vgg16 resnet20 … --data ARCHIVE --work FOLDER [--seeds 0 1 2]

`trained` trains a network with settings of its own, all 50,000 images but for the 2 % that are held out, or takes it
from the folder; what it came to, with minutes and machine, goes to results/dense.json. `from_dense` runs a built-in
recipe that begins with that network: its step `adapt`, which would train one, is left out unless the experiment keeps
it. Both go on where they were stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from records import read, write
from torch import Tensor, nn

import secateur
from secateur.data import DataSet, load
from secateur.models import create
from secateur.recipe import RunResult
from secateur.train import TrainConfig, evaluate, fit
from secateur.train.precision import fast_bf16

VALIDATION = 0.02
CIFAR = Path(__file__).resolve().parents[1].parent / "shared/data/cifar10-jpeg.tar.xz"


class VGG16(nn.Module):
    """VGG-16 with batch norm and two fully connected layers (FC6 of 4,096 and the classes), for images of 32×32.

    The last pooling is left out, so that FC6 reads a map (512×2×2) as that of the paper does (512×7×7).
    """

    def __init__(self, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        whole = create("vgg16_bn_cifar", classes=classes, in_channels=in_channels).features
        self.features = nn.Sequential(*list(whole)[:-1])
        self.classifier = nn.Sequential(
            nn.Linear(512 * 2 * 2, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4096, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) → (B, classes)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class AlexNet(nn.Module):
    """AlexNet's five convolutions and three linear layers, for images of 32×32, with batch norm."""

    def __init__(self, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for width, pool in ((64, True), (192, True), (384, False), (256, False), (256, True)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if pool else []
            before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(256 * 4 * 4, 1024), nn.ReLU(inplace=True),
            nn.Dropout(0.5), nn.Linear(1024, 1024), nn.ReLU(inplace=True), nn.Linear(1024, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) → (B, classes)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Network:
    """How a dense network is made and trained.

    Attributes:
        make: Makes it with fresh weights, for a number of input channels.
        epochs: Until its validation accuracy levels out.
        settings: Others of the training.
        depthwise: Whether its convolutions are depthwise, which processors compute slowly in bf16.
        limit: Training images, where it is too large for all of them.
    """

    make: Callable[..., nn.Module]
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.1})
    depthwise: bool = False
    limit: int | None = None


def _built_in(name: str, epochs: int, **options: Any) -> Network:
    return Network(partial(create, name, classes=10), epochs, **options)


NETWORKS: Mapping[str, Network] = {
    "vgg16": Network(VGG16, 20, {"lr": 0.05}),
    "alexnet": Network(AlexNet, 25, {"lr": 0.05}),
    "resnet20": _built_in("resnet20", 40),
    "resnet56": _built_in("resnet56", 25),
    "mobilenetv3": _built_in("mobilenetv3_small_cifar", 30, depthwise=True),
    "squeezenet": _built_in("squeezenet_cifar", 30, settings={"lr": 0.05}),
    "googlenet": _built_in("googlenet_cifar", 12, limit=10_000),
}


@cache
def images(path: Path, limit: int | None = None) -> DataSet:
    """CIFAR-10, or MNIST scaled to the same 32×32."""
    return load(path, validation=VALIDATION, limit=limit, image_size=32)


def trained(
    name: str, seed: int = 0, *, data: Path = CIFAR, work: Path, limit: int | None = None, epochs: int | None = None
) -> nn.Module:
    """The dense network, trained or from the folder; ``limit`` and ``epochs`` are for trials, which leave no record."""
    network, there = NETWORKS[name], images(data, limit or NETWORKS[name].limit)
    torch.manual_seed(seed)
    model, folder = network.make(in_channels=there.shape[0]), work / f"dense-{there.name}-{name}-{seed}"
    precision = "bf16" if fast_bf16() and not network.depthwise else "32"
    config = TrainConfig(epochs=epochs or network.epochs, precision=precision, **network.settings)
    begun = time.monotonic()
    history = fit(model, there, config, folder=folder, seed=seed, name=name)
    seconds = sum(epoch.seconds for epoch in history.epochs)
    key = (there.name, name, seed)
    if limit is None and epochs is None and not any((r["data"], r["network"], r["seed"]) == key for r in read("dense")):
        found = evaluate(model, images(data), images(data).test)
        row = {
            "data": there.name, "network": name, "seed": seed,
            "epochs": config.epochs, "images": len(there.train), "precision": precision,
            "top1": found.top1, "top5": found.top5, "loss": found.loss, "minutes": round(seconds / 60, 1),
            "validation": [epoch.validation.get("top1") for epoch in history.epochs],
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        write("dense", [*read("dense"), row])
    print(f"{name} {seed}: dense after {time.monotonic() - begun:.0f} s", flush=True)
    return model.eval()


def from_dense(
    recipe: str | Path,
    model: nn.Module,
    folder: Path,
    *,
    settings: Sequence[str] = (),
    adapt: bool = False,
    data: Path = CIFAR,
    limit: int | None = None,
    seed: int = 0,
) -> RunResult:
    """A built-in recipe from a dense network on, or the rest of a run that was stopped.

    Args:
        recipe: Its name.
        model: The dense network.
        folder: Of the run.
        settings: As of ``--set``.
        adapt: Whether its step `adapt` stays: for a penalty that the dense network was not trained with.
        data: CIFAR-10.
        limit: For trials.
        seed: Of the run.
    """
    if (folder / "recipe.yaml").exists():
        run = secateur.resume(folder, model=model, task=images(data, limit))
        assert isinstance(run, RunResult)
        return run
    first = () if adapt else ("steps.adapt.epochs=0",)
    everything = [*first, f"seed={seed}", "steps.measure.runtimes=[]", *settings]
    return secateur.run(recipe, folder, model=model, task=images(data, limit), set=everything)


def parser(text: str | None, folder: str) -> argparse.ArgumentParser:
    """What every experiment takes."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=CIFAR, help="the CIFAR-10 archive (or MNIST's folder)")
    made.add_argument("--work", type=Path, default=Path("runs") / folder, help="where networks and runs are kept")
    made.add_argument("--limit", type=int, help="images per split, for a trial: nothing is written")
    return made


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument("networks", nargs="+", choices=sorted(NETWORKS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = options.parse_args()
    for name in given.networks:
        for seed in given.seeds:
            trained(name, seed, data=given.data, work=given.work, limit=given.limit, epochs=1 if given.limit else None)


if __name__ == "__main__":
    main()
