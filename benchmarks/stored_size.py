"""Bytes on disk of networks with 90 % zeros and shared weights, read back bit for bit, beside the entropy bound.

Run: python benchmarks/stored_size.py [--lenet FILE] [--vgg FILE] [--table]

LeNet-5 and VGG-16 with batch normalisation for CIFAR (one linear layer); weights from safetensors files, or random
ones (PyTorch's initialisation, seed 0), which the table says. Writes results/stored_size.json and the table in
docs/sparsity.md.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import into_docs, read, table, write
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.models import create
from secateur.sparsity import Compressed, compress, decompress, sparsify

DOCS = Path(__file__).resolve().parents[1] / "docs/sparsity.md"
BITS = {"lenet5": {"conv*": 8, "fc*": 5}, "vgg16_bn_cifar": 5}
"""Deep Compression's (arXiv:1510.00149, §3): 8 bits for convolutions of small networks, 5 for the rest."""


def entropy_bytes(small: Compressed) -> float:
    """What no code for independent entries can undercut: entropies of places and of values, and the codebooks.

    Per shared weight of n entries, k of them not zero: ``n·H(k / n) + k·H(values) + 32·values`` bits; other tensors
    (biases, normalisations) as the file has them, without its header.
    """
    state = small.model.state_dict()
    return sum(_shared_bits(state[x.name]) / 8 if x.values else x.bytes for x in small.layers)


def _shared_bits(weight: Tensor) -> float:
    left = weight[weight != 0]
    values = left.unique(return_counts=True)[1]
    places = np.array([len(left), weight.numel() - len(left)])
    return weight.numel() * _entropy(places) + len(left) * _entropy(values.numpy()) + 32 * len(values)


def _entropy(counts: np.ndarray[Any, Any]) -> float:
    """Bits per symbol."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def row(name: str, weights: Path | None) -> dict[str, Any]:
    """Prunes, shares, writes, reads back and compares every bit."""
    torch.manual_seed(0)
    model = create(name, weights=weights) if weights else create(name)
    sparse = sparsify(model, ratio=0.9, scope="global")
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.safetensors"
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, dense)
        zipped = Path(folder) / "sparse.safetensors"
        save_file({n: t.contiguous() for n, t in sparse.model.state_dict().items()}, zipped)
        small = compress(sparse.model, Path(folder) / "model.sdc", bits=BITS[name])
        back = decompress(small.path, create(name))
        exact = _bit_exact(back, small.model)
        assert exact, "the file does not give the network back"
        assert small.bytes == small.path.stat().st_size, "the report's figure is not the file's size"
        return {
            "network": name,
            "weights": "trained" if weights else "random",
            "params": sparse.params,
            "params_left": sparse.params_left,
            "dense_file": dense.stat().st_size,
            "zeros_deflated": len(zlib.compress(zipped.read_bytes(), 9)),
            "file": small.path.stat().st_size,
            "reported": small.bytes,
            "entropy": round(entropy_bytes(small)),
            "bit_exact": exact,
        }


def _bit_exact(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    same = (torch.equal(one[n].reshape(-1).view(torch.uint8), other[n].reshape(-1).view(torch.uint8)) for n in other)
    return one.keys() == other.keys() and all(same)


def tables(rows: list[dict[str, Any]]) -> None:
    head = ["network", "weights", "not zero", "dense file", "zeros, deflated", "zeros and shared values", "smaller",
            "entropy bound", "above it", "read back"]  # fmt: skip
    body = [
        [r["network"], r["weights"], f"{r['params_left']:,} of {r['params']:,}", f"{r['dense_file']:,}",
         f"{r['zeros_deflated']:,}", f"{r['file']:,}", f"{r['dense_file'] / r['file']:.1f}×", f"{r['entropy']:,}",
         f"{r['file'] / r['entropy'] - 1:.1%}", "bit for bit" if r["bit_exact"] else "differs"]
        for r in rows
    ]  # fmt: skip
    into_docs(DOCS, "stored", table(head, body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lenet", type=Path, help="weights of a trained LeNet-5")
    parser.add_argument("--vgg", type=Path, help="weights of a trained VGG-16 with batch normalisation, CIFAR size")
    parser.add_argument("--table", action="store_true", help="write the table of the docs and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        rows = []
        for name, weights in (("lenet5", options.lenet), ("vgg16_bn_cifar", options.vgg)):
            rows.append(row(name, weights))
            print(rows[-1], flush=True)
        write("stored_size", rows, seed=0, zeros=0.9)
    tables(read("stored_size"))


if __name__ == "__main__":
    main()
