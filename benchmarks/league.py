"""Repair without training or labels: Secateur beside the published methods, same cuts, same samples.

    python benchmarks/league.py --cifar ARCHIVE --imagenet ARCHIVE --weights FOLDER [--only NETWORK …] [--seeds 0 1 2]

Networks with public weights: ResNet-20 and ResNet-56 (option A) on CIFAR-10, 512 unlabelled training images with their
mirror images, all 10,000 test images; MobileNetV2 of torchvision on one ImageNet image a class, of which 200 are for
calibration and the other 800 for testing (probably training images of the network's: it is agreement that is measured).
What is cut are the inner channels of every block, the same share everywhere, lowest L1 norm first, to a share of the
MACs; all methods repair that cut, but Torch-Pruning and OSSCAR, which choose the inner channels by themselves
(Torch-Pruning at least that share of the MACs, OSSCAR the same widths), and *chosen*, where Secateur chooses. A seed
decides which images are for calibration. The methods of others are in field.py and peer.py. Rows that are there are not
done again. Writes results/league.json and the table of docs/league.md.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import field
import numpy as np
import peer
import torch
from PIL import Image
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.cut.pruned import Pruned
from secateur.data import load
from secateur.data.types import IMAGENET
from secateur.models import create, import_torchvision, normalisation

NAME = "league"
DOCS = Path(__file__).resolve().parents[1] / "docs/league.md"
CALIBRATION = {"resnet20": 512, "resnet56": 512, "mobilenet_v2": 200}
KEPT = {"resnet20": (0.5, 0.33), "resnet56": (0.5, 0.33), "mobilenet_v2": (0.7, 0.5)}


@dataclass(frozen=True)
class Bench:
    """A dense network with its images.

    Attributes:
        name: Of :data:`KEPT`.
        seed: Which images are for calibration.
        options: The command line.
    """

    name: str
    seed: int
    options: argparse.Namespace

    @cached_property
    def model(self) -> nn.Module:
        """With its public weights."""
        folder = self.options.weights
        if self.name != "mobilenet_v2":
            return create(self.name, weights=folder / f"{self.name}-cifar10.safetensors").eval()
        import_torchvision()
        from safetensors.torch import load_file
        from torchvision.models import mobilenet_v2

        model: nn.Module = mobilenet_v2()
        model.load_state_dict(load_file(folder / "mobilenet_v2-imagenet.safetensors"))
        return model.eval()

    @cached_property
    def images(self) -> tuple[Tensor, Tensor, Tensor]:
        """For calibration; for testing, with labels."""
        if self.name == "mobilenet_v2":
            x, labels = _imagenet(self.options.imagenet)
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
            count = CALIBRATION[self.name]
            return x[order[:count]], x[order[count:]], labels[order[count:]]
        data = _cifar(self.options.cifar, self.name)
        x = data.sample(CALIBRATION[self.name], seed=self.seed)
        centre, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        return torch.cat([x, x.flip(3)]), (data.test.images.float() / 255 - centre) / spread, data.test.labels

    def uncut(self) -> list[str]:
        """Layers that keep their outputs: what leaves a block, the stem, and what makes scores."""
        inner = (lambda n: n.endswith(".conv1")) if self.name != "mobilenet_v2" else _expanded
        return [n for n, m in self.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and not inner(n)]

    @cached_property
    def cuts(self) -> dict[tuple[float, str], Pruned]:
        """Those made so far."""
        return {}

    @cached_property
    def dense(self) -> float:
        """Accuracy of the dense network."""
        return self.top1(self.model)

    def cut(self, kept: float, criterion: str) -> Pruned:
        """To a share of the MACs."""
        x = self.images[0]
        given: dict[str, Any] = {"data": x} if criterion == "reconstruction" else {"scope": "local"}
        if (kept, criterion) not in self.cuts:
            self.cuts[kept, criterion] = secateur.prune(
                self.model, x[:2], macs=kept, criterion=criterion, ignore=self.uncut(), **given
            )
        return self.cuts[kept, criterion]

    def top1(self, model: nn.Module) -> float:
        _, x, labels = self.images
        with torch.no_grad():
            hits = sum(
                int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(100), labels.split(100), strict=True)
            )
        return round(100 * hits / len(labels), 2)


def _expanded(name: str) -> bool:
    """Whether a convolution of MobileNetV2 makes a block's inner channels (the first block has none to expand)."""
    parts = name.split(".")
    return ".conv." in name and not name.startswith("features.1.") and parts[-1] == "0" and len(parts) == 5


@cache
def _cifar(path: str, name: str) -> Any:
    known = normalisation(name)
    assert known is not None
    return load(path, validation=0.05).with_normalisation(*known)


@cache
def _imagenet(path: str) -> tuple[Tensor, Tensor]:
    """Images of an archive of folders INDEX-WNID, normalised, and their classes."""
    pixels, labels = [], []
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(".jpg") else None
            if file is not None:
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
                labels.append(int(Path(member.name).parent.name.partition("-")[0]))
    centre, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in IMAGENET)
    return (torch.stack(pixels).float() / 255 - centre) / spread, torch.tensor(labels)


Repair = Callable[[Bench, Pruned], nn.Module]


def _recover(bench: Bench, cut: Pruned, **options: Any) -> nn.Module:
    return secateur.recover(cut, bench.images[0], dense=bench.model, seed=bench.seed, **options).model


def _then_statistics(repair: Repair, bench: Bench, cut: Pruned) -> nn.Module:
    x = bench.images[0]
    return peer.estimate_batch_norm(repair(bench, cut), lambda: iter(x.split(64)))


REPAIRS: dict[str, Repair] = {
    "as cut": lambda _, cut: cut.model,
    "batch-norm statistics": partial(_then_statistics, lambda _, cut: cut.model),
    "neuron merging + statistics": partial(_then_statistics, partial(_recover, method="merge")),
    "folding + statistics": partial(_then_statistics, lambda bench, cut: field.fold(bench.model, cut, seed=bench.seed)),
    "GRAIL": lambda bench, cut: field.grail(bench.model, cut, bench.images[0]),
    "GRAIL + statistics": partial(_then_statistics, lambda b, cut: field.grail(b.model, cut, b.images[0])),
    "affine GRAIL + statistics": partial(
        _then_statistics, lambda b, cut: field.grail(b.model, cut, b.images[0], affine=True)
    ),
    "Secateur": _recover,
    "Secateur, variance matched": partial(_recover, match_variance=True),
}
OWN_CUT = {"Torch-Pruning + statistics": "", "OSSCAR": "", "OSSCAR + statistics": "", "Secateur, chosen": "Secateur",
           "Secateur, chosen, variance matched": "Secateur, variance matched"}  # fmt: skip


def osscar(bench: Bench, cut: Pruned) -> tuple[Pruned, dict[str, Tensor]]:
    """As many channels in every layer as a cut leaves, chosen by OSSCAR, and its weights of the layers behind."""
    x = bench.images[0]
    found = field.osscar(bench.model, cut, x)
    keep = {name: dict(dims) for name, dims in cut.plan.keep.items()}
    for group in (g.group for g in cut.groups if g.kept < len(g.group)):
        stays = next(found[m.parameter.removesuffix(".weight")][0] for m in group.members if m.consumes)
        for member in group.members:
            keep[member.parameter][member.dim] = tuple(stays)
    weights = {}
    for name, (_, weight) in found.items():
        own = cut.plan.keep[f"{name}.weight"].get(0)
        weights[f"{name}.weight"] = weight if own is None else weight[list(own)]
    return secateur.apply(bench.model, replace(cut.plan, keep=keep), x[:2]), weights


def _osscar(bench: Bench, kept: float) -> nn.Module:
    """The widths of the cut by L1 norm."""
    pruned, weights = osscar(bench, bench.cut(kept, "l1"))
    pruned.model.load_state_dict(weights, strict=False)
    return pruned.model


def row_of(bench: Bench, kept: float, way: str) -> dict[str, Any]:
    """What a way leaves of the accuracy; the seconds are of the repair alone."""
    if way == "Torch-Pruning + statistics":
        x = bench.images[0]
        macs = kept * secateur.count(bench.model, x[:1]).macs
        began = time.process_time()
        model = peer.cut(bench.model, x, "group L2", macs, everywhere=False, whole=bench.uncut())
        assert secateur.count(model, x[:1]).macs < 1.05 * macs, "it made no cut near what was asked for"
        model = peer.estimate_batch_norm(model, lambda: iter(x.split(64)))
    elif way.startswith("OSSCAR"):
        began, x = time.process_time(), bench.images[0]
        model = _osscar(bench, kept)
        model = peer.estimate_batch_norm(model, lambda: iter(x.split(64))) if "+" in way else model
    else:
        cut = bench.cut(kept, "reconstruction" if way in OWN_CUT else "l1")
        began = time.process_time()
        model = REPAIRS[OWN_CUT.get(way, way)](bench, cut)
    seconds = round(time.process_time() - began, 1)
    return {"top1": bench.top1(model), "dense": bench.dense, "cpu_seconds": seconds}


def page(rows: list[dict[str, Any]], dense: dict[str, float]) -> str:
    """One table a network: ways down, shares of the MACs across; mean, spread and number of seeds."""
    parts = []
    for name in dict.fromkeys(r["network"] for r in rows):
        body = []
        for way in [*REPAIRS, *OWN_CUT]:
            cells = [cell([r["top1"] for r in rows if (r["network"], r["kept"], r["way"]) == (name, kept, way)])
                     for kept in KEPT[name]]  # fmt: skip
            if any(cell != "–" for cell in cells):
                body.append([way, *cells])
        head = ["top-1, %", *(f"{kept} of the MACs" for kept in KEPT[name])]
        parts.append(f"**{name}**, dense {dense[name]:.2f} %\n\n{table(head, body)}")
    return "\n\n".join(parts)


def cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.2f} ± {stdev(values):.2f} ({len(values)})" if len(values) > 1 else f"{values[0]:.2f} (1)"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What says where :class:`Bench` finds its data and weights, and which networks to take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True, help="CIFAR-10, as secateur.data.load takes it")
    parser.add_argument("--imagenet", required=True, help="tar of folders INDEX-WNID with one image each")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the public weights")
    parser.add_argument("--only", nargs="+", default=list(KEPT), choices=list(KEPT))
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--ways", nargs="+", default=[*REPAIRS, *OWN_CUT])
    parser.add_argument("--kept", nargs="+", type=float, help="only these shares of the MACs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    ways = _possible(options.ways)
    for seed in options.seeds:
        for name in options.only:
            bench = Bench(name, seed, options)
            for kept in KEPT[name]:
                for way in ways if kept in (options.kept or KEPT[name]) else ():
                    rows, key = read(NAME), {"network": name, "kept": kept, "seed": seed, "way": way}
                    if not any(all(r[k] == v for k, v in key.items()) for r in rows):
                        keep(key | row_of(bench, kept, way))


def _possible(ways: list[str]) -> list[str]:
    """Without what is not installed, which is said."""
    if find_spec("torch_pruning") is None:
        print("torch-pruning is not installed (pip install torch-pruning==1.6.1): its rows are left out")
    return [w for w in ways if find_spec("torch_pruning") or not w.startswith("Torch-Pruning")]


def keep(row: dict[str, Any]) -> None:
    """Adds a row, to the table too."""
    print(row, flush=True)
    rows = [*read(NAME), row]
    write(NAME, rows, threads=torch.get_num_threads(), calibration=CALIBRATION)
    into_docs(DOCS, "league", page(rows, {r["network"]: r["dense"] for r in rows}))


if __name__ == "__main__":
    main()
