"""Accuracy after cuts of 1.4×, 2× and 3× fewer MACs: before training, and after one and three epochs of it.

Run: python benchmarks/accuracy.py --data CIFAR10_ARCHIVE --weights FOLDER [--work FOLDER] [--networks …] [--seeds …]

Dense networks are trained once and kept in --work. For each MAC reduction and seed: Secateur's `reconstruction` as it
is, with batch-norm statistics estimated again, and with `recover` (least squares); then one and three epochs of
fine-tuning. Torch-Pruning 1.6.1 beside it with its group L2 and BN-scale criteria: its ratio is bisected until its
network has as many MACs as ours or just more, over the whole network and layer by layer, and whichever is better on
the validation images with batch-norm statistics estimated again goes on. Both are fine-tuned by the same code with
the same settings and the same teacher, the dense network. Rows that are there are not done again, so the script goes
on where it was stopped; networks can be done by several processes at once. It writes results/accuracy-NETWORK.json
and the tables of docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import peer
import torch
from accuracy_tables import into_page
from records import read, write
from torch import Tensor, nn

import secateur
from secateur.cost.counts import count
from secateur.data import DataSet, load
from secateur.data.types import AnySplit
from secateur.models import create, normalisation
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.train import TrainConfig, evaluate, fit
from secateur.train.distill import Distill

REDUCTIONS = (1.4, 2.0, 3.0)
EPOCHS = (3, 1)
TEACHER = 0.5


class VGG11(nn.Module):
    """VGG-11 with batch norm for 32×32 images, half as wide as usual, one linear layer (arXiv:1409.1556, column A)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in ((32,), (64,), (128, 128), (256, 256), (256, 256)):
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Network:
    """A dense network: how it is made and trained, and what is done with it.

    Attributes:
        make: Builds it, given the folder of public weights.
        epochs: Of dense training (adaptation where there are public weights).
        lr: Of dense training.
        tune_lr: Of fine-tuning, for both tools.
        precision: Of all training.
        images: Of fine-tuning; ``None`` for all.
        batch: Images per step of fine-tuning.
        ours_only: Torch-Pruning fails on it.
        reductions: MAC reductions.
    """

    make: Callable[[Path], nn.Module]
    epochs: int
    lr: float
    tune_lr: float = 0.02
    precision: str = "bf16"
    images: int | None = 5_000
    batch: int = 64
    ours_only: bool = False
    reductions: tuple[float, ...] = REDUCTIONS


def _resnet(name: str, folder: Path, *, public: str) -> nn.Module:
    """A ResNet with public option-A weights; 1×1 shortcuts, which those do not have, stay random."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = create(name)
    found = model.load_state_dict(load_file(folder / f"{public}-cifar10.safetensors"), strict=False)
    assert not found.unexpected_keys
    assert all("shortcut" in key for key in found.missing_keys), found.missing_keys
    return model


def _seeded(make: Callable[[], nn.Module], _folder: Path) -> nn.Module:
    torch.manual_seed(0)
    return make()


@cache
def _whole(path: str) -> DataSet:
    known = normalisation("resnet20")
    assert known is not None
    return load(path, validation=0.05).with_normalisation(*known)


def _some(split: AnySplit, count: int) -> AnySplit:
    """``count`` images drawn once and for all (files are stored class by class)."""
    return split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count])


NETWORKS = {
    "ResNet-56": Network(partial(_resnet, "resnet56", public="resnet56"), 3, 0.02, images=None, batch=128,
                         ours_only=True, reductions=(2.0,)),
    "ResNet-20, option B": Network(partial(_resnet, "resnet20b", public="resnet20"), 6, 0.05),
    "VGG-11-BN, half width": Network(partial(_seeded, VGG11), 12, 0.1),
    "MobileNetV3-small": Network(partial(_seeded, partial(create, "mobilenetv3_small_cifar")), 12, 0.1,
                                 precision="32"),
}  # fmt: skip


class Bench:
    """One network with its data: dense training, cuts, fine-tuning, scores.

    Args:
        name: Which of :data:`NETWORKS`.
        options: The command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.network, self.options = name, NETWORKS[name], options
        self.folder = options.work / slug(name)
        self.folder.mkdir(parents=True, exist_ok=True)

    def data(self, limit: int | None) -> DataSet:
        """CIFAR-10 with at most ``limit`` training images, all test images, and 1,000 validation images."""
        whole = _whole(self.options.data)
        tests = _some(whole.test, self.options.test_images)
        return replace(whole, train=_some(whole.train, limit or len(whole.train)), test=tests,
                       validation=_some(whole.validation, 1000))  # fmt: skip

    @cached_property
    def large(self) -> DataSet:
        """What the dense network is trained on."""
        return self.data(None if self.network.images is None else self.options.dense_images)

    @cached_property
    def small(self) -> DataSet:
        """What is fine-tuned on."""
        return self.data(self.options.images or self.network.images)

    def config(self, epochs: int, lr: float, batch: int = 128) -> TrainConfig:
        """The settings that every training shares."""
        return TrainConfig(epochs=epochs, lr=lr, batch_size=batch, precision=self.network.precision)  # type: ignore[arg-type]

    @cached_property
    def dense(self) -> nn.Module:
        """The dense network, trained once."""
        path = self.folder / "dense.safetensors"
        model = self.network.make(self.options.weights)
        if not path.exists():
            fit(model, self.large, self.config(self.network.epochs, self.network.lr), folder=self.folder / "dense")
            save_weights(model, path)
        load_weights_into(model, path)
        return model.eval()

    def images(self, seed: int) -> Tensor:
        """Calibration images without labels, each with its mirror image."""
        x = self.small.sample(self.options.calibration, seed=seed)
        return torch.cat([x, x.flip(3)])

    def top1(self, model: nn.Module, split: str = "test") -> float:
        return round(evaluate(model, self.small, getattr(self.small, split)).top1, 2)

    def tuned(self, model: nn.Module, epochs: int, seed: int, name: str, *, teacher: bool = True) -> dict[str, Any]:
        """Fine-tunes in place; both tools and the control come through here."""
        began = time.perf_counter()
        extras = [Distill(self.dense, weight=self.options.teacher)] if teacher else []
        folder = self.folder / name.replace(" ", "-")
        config = self.config(epochs, self.network.tune_lr, self.network.batch)
        fit(model, self.small, config, seed=seed, extras=extras, folder=folder)
        for file in folder.glob("*.pt"):  # the checkpoints of a training that is in the table
            file.unlink()
        return {"top1": self.top1(model), "seconds": round(time.perf_counter() - began)}


Row = dict[str, Any]


def ours(bench: Bench, reduction: float, seed: int) -> Iterator[Row]:
    """Secateur: channels chosen for the repair, three forms of repair, fine-tuning of the last."""
    x = bench.images(seed)
    dense_macs = count(bench.dense, x[:1]).macs
    began = time.perf_counter()
    cut = secateur.prune(bench.dense, x[:2], macs=dense_macs / reduction, criterion="reconstruction", data=x, seed=seed)
    way = "Secateur" if bench.options.teacher == TEACHER else f"Secateur, teacher weighs {bench.options.teacher}"
    size = {"way": way, "macs": cut.after.macs, "params": cut.after.params}
    yield size | {"stage": "none", "top1": bench.top1(cut.model)}
    statistics = secateur.recover(cut, x, dense=bench.dense, method="batch_norm", seed=seed)
    yield size | {"stage": "batch norm", "top1": bench.top1(statistics.model)}
    fixed = secateur.recover(cut, x, dense=bench.dense, seed=seed)
    seconds = round(time.perf_counter() - began)
    yield size | {"stage": "repaired", "top1": bench.top1(fixed.model), "seconds": seconds}
    for epochs in bench.options.epochs:
        again = secateur.recover(cut, x, dense=bench.dense, seed=seed) if epochs != bench.options.epochs[0] else fixed
        tuned = bench.tuned(again.model, epochs, seed, _name(way, reduction, seed, epochs))
        yield size | {"stage": f"{epochs} epochs", **tuned}


def theirs(bench: Bench, reduction: float, seed: int, criterion: str) -> Iterator[Row]:
    """Torch-Pruning: the better of both scopes on the validation images, then the same fine-tuning."""
    x = bench.images(seed)
    macs = count(bench.dense, x[:1]).macs / reduction
    found = []
    for everywhere in (False, True):
        try:
            cut = peer.cut(bench.dense, x, criterion, macs, everywhere=everywhere)
        except peer.NoCutError as error:
            print(error, flush=True)
            continue
        again = peer.estimate_batch_norm(cut, lambda: iter(x.split(128)))
        found.append((bench.top1(again, "validation"), everywhere, cut, again))
    if not found:
        return
    _, everywhere, cut, again = max(found, key=lambda f: f[0])
    counts = count(cut, x[:1])
    size = {"way": f"Torch-Pruning, {criterion}", "macs": counts.macs, "params": counts.params,
            "scope": "global" if everywhere else "local"}  # fmt: skip
    yield size | {"stage": "none", "top1": bench.top1(cut)}
    yield size | {"stage": "batch norm", "top1": bench.top1(again)}
    for epochs in bench.options.epochs:
        model = peer.estimate_batch_norm(cut, lambda: iter(x.split(128)))
        tuned = bench.tuned(model, epochs, seed, _name(criterion, reduction, seed, epochs))
        yield size | {"stage": f"{epochs} epochs", **tuned}


def control(bench: Bench, _reduction: float, seed: int) -> Iterator[Row]:
    """The dense network, trained on for as long as the pruned ones are (on the labels alone)."""
    x = bench.images(seed)[:1]
    counts = count(bench.dense, x)
    size = {"way": "dense", "macs": counts.macs, "params": counts.params}
    yield size | {"stage": "none", "top1": bench.top1(bench.dense)}
    model = bench.network.make(bench.options.weights)
    model.load_state_dict(bench.dense.state_dict())
    yield size | {"stage": "3 epochs", **bench.tuned(model, 3, seed, _name("dense", 1, seed, 3), teacher=False)}


def slug(name: str) -> str:
    """For file names."""
    return name.replace(" ", "-").replace(",", "")


def _name(what: str, reduction: float, seed: int, epochs: int) -> str:
    return f"{what}-{reduction}-{seed}-{epochs}"


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, float, int, str]]:
    """(network, reduction, seed, way), the most telling ones first."""
    for seed in options.seeds:
        for name in options.networks:
            if NETWORKS[name].ours_only:
                yield name, 1.0, seed, "dense"
            for reduction in sorted(NETWORKS[name].reductions, key=lambda r: abs(r - 2)):
                for way in ("Secateur", *(() if NETWORKS[name].ours_only else peer.CRITERIA)):
                    yield name, reduction, seed, way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as secateur.data.load takes it")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the public ResNets")
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--images", type=int, help="images to fine-tune on")
    parser.add_argument("--dense-images", type=int, default=20_000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS)
    parser.add_argument("--teacher", type=float, default=TEACHER, help="weight of the teacher in the loss")
    parser.add_argument("--ways", nargs="+", help="only these: dense, Secateur, group L2, BN scale")
    parser.add_argument("--no-docs", action="store_true", help="a trial: print the rows and write nothing")
    options = parser.parse_args()
    benches = {name: Bench(name, options) for name in options.networks}
    for name, reduction, seed, way in jobs(options):
        bench = benches[name]
        if options.ways and way not in options.ways:
            continue
        rows = [] if options.no_docs else read(f"accuracy-{slug(name)}")
        job = way if options.teacher == TEACHER else f"{way}, {options.teacher}"
        key = {"network": name, "reduction": reduction, "seed": seed, "job": job}
        if any(r["job_done"] and all(r[k] == v for k, v in key.items()) for r in rows):
            continue
        made = [r for r in rows if any(r[k] != v for k, v in key.items())]
        for row in MAKERS.get(way, partial(theirs, criterion=way))(bench, reduction, seed):
            made.append(key | row | {"train_images": len(bench.small.train), "job_done": False})
            print(made[-1], flush=True)
            keep(name, made, options)
        made[-1]["job_done"] = True
        keep(name, made, options)


def keep(name: str, rows: list[Row], options: argparse.Namespace) -> None:
    """Writes a network's rows and the page's tables."""
    if not options.no_docs:
        facts = {k: getattr(options, k) for k in ("calibration", "dense_images", "test_images")}
        write(f"accuracy-{slug(name)}", rows, threads=torch.get_num_threads(), **facts)
        into_page()


MAKERS: dict[str, Callable[[Bench, float, int], Iterator[Row]]] = {"Secateur": ours, "dense": control}


if __name__ == "__main__":
    main()
