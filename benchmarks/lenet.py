"""Single-weight pruning of LeNet-300-100 and LeNet-5 on MNIST: Han's three steps, LC, case 6.4, Deep Compression.

Run: python benchmarks/lenet.py FOLDER_OF_MNIST [--networks lenet300 lenet5] [--seeds 0 1 2] [--work FOLDER]

Resumable: finished rows are kept in benchmarks/results/lenet.json, and a training goes on from its last epoch. At
the end (or with --table alone) the tables of docs/weight-pruning.md are written. One thread.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import nn

from secateur.data import DataSet, load
from secateur.models import create
from secateur.sparsity import LC, HoldMasks, compress, decompress, sparsify, weight_scores
from secateur.sparsity.weights import Sparse, sparse
from secateur.train import Distill, Extra, TrainConfig, evaluate, fit
from secateur.train.precision import fast_bf16

DOCS = Path(__file__).resolve().parents[1] / "docs"
DENSE = {"lenet300": 20, "lenet5": 8}
"""Epochs of the dense networks."""
LR = {"lenet300": 0.1, "lenet5": 0.05}

DECAY = 3e-4
"""Weight decay throughout: without a pull, weights of pixels that are always black never leave their random start."""
HAN = (0.7, 0.85, 0.9185)
"""Share of all weights removed at each station, with one threshold over the network; the last leaves 12×."""
EVERY = 0.8
"""Share that goes by its change, in equal parts after every epoch but the last two; the rest goes by magnitude."""
RETRAIN = {"lenet300": (4, 4, 20), "lenet5": (2, 2, 5)}
"""Epochs after each station."""
LC_EPOCHS = {"lenet300": 30, "lenet5": 12}
LC_FINISH = {"lenet300": 5, "lenet5": 3}
BITS = {"lenet300": 5, "lenet5": {"conv*": 8, "fc*": 5}}


@dataclass
class Bench:
    """One network and one seed."""

    network: str
    seed: int
    data: DataSet
    work: Path

    @property
    def precision(self) -> str:
        return "bf16" if self.network == "lenet5" and fast_bf16() else "32"

    def train(self, model: nn.Module, name: str, epochs: int, *extras: Extra, **settings: Any) -> None:
        """Trains in place, going on where it was stopped."""
        settings = {"lr": LR[self.network], "weight_decay": DECAY, "precision": self.precision, **settings}
        config = TrainConfig(epochs=epochs, augment=False, **settings)
        folder = self.work / f"{self.network}-{self.seed}-{name}"
        fit(model, self.data, config, folder=folder, seed=self.seed, name=name, extras=extras, progress=False)

    def error(self, model: nn.Module) -> float:
        """Test error in percent."""
        return 100 - evaluate(model, self.data, self.data.test).top1

    def dense(self) -> nn.Module:
        """The dense network, trained once."""
        torch.manual_seed(self.seed)
        model = create(self.network)
        self.train(model, "dense", DENSE[self.network])
        return model

    def row(self, method: str, model: nn.Module, **numbers: Any) -> dict[str, Any]:
        error = round(self.error(model), 4)
        return {"network": self.network, "seed": self.seed, "method": method, "error": error,
                "precision": self.precision, **numbers}  # fmt: skip


def dense(bench: Bench) -> dict[str, Any]:
    model = bench.dense()
    return bench.row("dense", model, params=sum(p.numel() for p in model.parameters()))


def control(bench: Bench) -> dict[str, Any]:
    """The dense network, trained on for as long as Han's is retrained."""
    model = bench.dense()
    for k, epochs in enumerate(RETRAIN[bench.network]):
        bench.train(model, f"control-{k}", epochs)
    return bench.row("dense, trained on", model, params=sum(p.numel() for p in model.parameters()))


def han(bench: Bench) -> dict[str, Any]:
    """Prune, retrain with the masks held, and again."""
    found = _han(bench)
    return bench.row("Han, iterative", found.model, **_sizes(found))


def taught(bench: Bench) -> dict[str, Any]:
    """The same, retrained with the dense network as the teacher."""
    found = _han(bench, Distill(bench.dense(), weight=0.7, temperature=4.0))
    return bench.row("Han, iterative, taught", found.model, **_sizes(found))


def _han(bench: Bench, *teacher: Extra) -> Sparse:
    model, masks = bench.dense(), {}
    for k, (ratio, epochs) in enumerate(zip(HAN, RETRAIN[bench.network], strict=True)):
        found = sparsify(model, ratio=ratio, scope="global", masks=masks)
        model, masks = found.model, found.masks
        bench.train(model, f"han-{'taught-' if teacher else ''}{k}", epochs, *teacher, HoldMasks(masks))
    return found


def one_shot(bench: Bench) -> dict[str, Any]:
    """The last share at once, without and then with retraining."""
    found = sparsify(bench.dense(), ratio=HAN[-1], scope="global")
    before = bench.error(found.model)
    bench.train(found.model, "once", sum(RETRAIN[bench.network]), HoldMasks(found.masks))
    return bench.row("Han, at once", found.model, error_before=round(before, 4), **_sizes(found))


def lc(bench: Bench) -> dict[str, Any]:
    """5 % of the weights stay: learning and compression in turn, then a few epochs with the masks held."""
    model = bench.dense()
    extra = LC(0.95)
    bench.train(model, "lc", LC_EPOCHS[bench.network], extra)
    before, found = bench.error(model), sparse(model, extra.masks)
    bench.train(model, "lc-finish", LC_FINISH[bench.network], HoldMasks(found.masks), lr=LR[bench.network] / 5)
    return bench.row("LC, 5 % kept", model, error_before=round(before, 4), **_sizes(found))


def every_epoch(bench: Bench) -> dict[str, Any]:
    """The survey's case 6.4: after every epoch the weights go that training has changed least since its start."""
    torch.manual_seed(bench.seed)
    model = create(bench.network)
    start, masks, epochs = copy.deepcopy(model), {}, DENSE[bench.network]
    for k in range(1, epochs + 1):
        bench.train(model, f"every-epoch-{k}", 1, *([HoldMasks(masks)] if masks else []), schedule="constant",
                    lr=LR[bench.network] * (0.2 if k <= epochs - 2 else 0.04))  # fmt: skip
        if k <= epochs - 2:
            score = weight_scores("change", model, start=start)
            found = sparsify(model, ratio=EVERY * k / (epochs - 2), scope="global", criterion=score, masks=masks)
            model, masks = found.model, found.masks
    found = sparsify(model, ratio=HAN[-1], scope="global", masks=masks)
    before = bench.error(found.model)
    bench.train(found.model, "every-epoch-end", RETRAIN[bench.network][-1], HoldMasks(found.masks))
    return bench.row("every epoch, by change (case 6.4)", found.model, error_before=round(before, 4), **_sizes(found))


def deep_compression(bench: Bench) -> dict[str, Any]:
    """Han's network with shared weights in an entropy-coded file, read back from it."""
    found = _han(bench)
    with tempfile.TemporaryDirectory() as folder:
        small = compress(found.model, Path(folder) / "model.sdc", bits=BITS[bench.network])
        back = decompress(small.path, copy.deepcopy(found.model))
        return bench.row("Deep Compression", back, bytes=small.bytes, dense_bytes=small.dense_bytes,
                         file_ratio=round(small.ratio, 2), **_sizes(found))  # fmt: skip


def _sizes(found: Sparse) -> dict[str, Any]:
    layers = {layer.name: [layer.weights, layer.kept] for layer in found.layers}
    return {"params": found.params, "params_left": found.params_left, "layers": layers}


METHODS = {"dense": dense, "dense, trained on": control, "Han, iterative": han,
           "Han, iterative, taught": taught, "Han, at once": one_shot,
           "LC, 5 % kept": lc, "every epoch, by change (case 6.4)": every_epoch,
           "Deep Compression": deep_compression}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ tables


def tables(rows: Sequence[dict[str, Any]]) -> None:
    """Writes one table a network into the docs."""
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        body = [_line(mine, method) for method in METHODS if any(row["method"] == method for row in mine)]
        head = ["", "parameters left", "fewer", "test error, %", "to dense, points", "before retraining, %",
                "file, bytes", "seeds"]  # fmt: skip
        into_docs(DOCS / "weight-pruning.md", network, table(head, body))


def _line(rows: Sequence[dict[str, Any]], method: str) -> list[str]:
    dense = {row["seed"]: row["error"] for row in rows if row["method"] == "dense"}
    mine = [row for row in rows if row["method"] == method]
    first = mine[0]
    left = first.get("params_left", first["params"])
    gaps = [row["error"] - dense[row["seed"]] for row in mine]
    before = [row["error_before"] for row in mine if "error_before" in row]
    size = f"{first['bytes']:,} ({first['file_ratio']:.1f}×)" if "bytes" in first else "–"
    gap = "–" if method == "dense" else _spread(gaps, sign=True)
    return [method, f"{left:,}", f"{first['params'] / left:.1f}×", _spread([row["error"] for row in mine]), gap,
            _spread(before) if before else "–", size, str(len(mine))]  # fmt: skip


def _spread(values: Sequence[float], *, sign: bool = False) -> str:
    middle = f"{mean(values):+.2f}" if sign else f"{mean(values):.2f}"
    return middle if len(values) < 2 else f"{middle} ± {stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", nargs="?", help="folder of the four IDX files")
    parser.add_argument("--networks", nargs="+", default=["lenet300", "lenet5"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "secateur-lenet")
    parser.add_argument("--table", action="store_true", help="write the tables of the docs and stop")
    options = parser.parse_args()
    if options.table:
        return tables(read("lenet"))
    if options.mnist is None:
        parser.error("the folder of MNIST is wanted")
    torch.set_num_threads(1)
    data = load(f"mnist:{options.mnist}", validation=0.0)
    for seed in options.seeds:
        for network in options.networks:
            for method in dict.fromkeys(["dense", *options.methods]):  # the others are compared with it
                rows = read("lenet")
                if any((r["network"], r["seed"], r["method"]) == (network, seed, method) for r in rows):
                    continue
                row = METHODS[method](Bench(network, seed, data, options.work))
                print(row, flush=True)
                write("lenet", [*rows, row], test_images=len(data.test), train_images=len(data.train))
    return tables(read("lenet"))


if __name__ == "__main__":
    main()
