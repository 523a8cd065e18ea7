"""What zeros are worth in time: the same network dense, with 90 % zeros and 2:4, and sparse products of single layers.

Run: python benchmarks/sparse_kernels.py [zeros | products | table] [--rounds 15]

One thread, batch 1 (products: and 32); everything that is compared runs in turn in shuffled rounds. Times are the
process's own processor time, which other programs on the machine do not add to. Resumable: finished rows are kept in
benchmarks/results/sparse_kernels.json; at the end (or with ``table``) docs/sparsity.md is written.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

from secateur.exports import export
from secateur.models import create
from secateur.runtimes import RUNTIMES, Program, installed
from secateur.sparsity import sparsify
from secateur.sparsity.converting import _standing_for
from secateur.sparsity.kernels import PRODUCTS
from secateur.timing.rounds import TimedCall, no_gc, rounds, thread_count
from secateur.timing.timings import spread

DOCS = Path(__file__).resolve().parents[1] / "docs/sparsity.md"
IN = ("pytorch", "onnxruntime", "openvino", "litert")
SHARES, BATCHES = (0.9, 0.95), (1, 32)
FORMS = {"in blocks 16×1": 16, "anywhere": 1}
"""Where the zeros lie: rows that a block takes together."""


def networks() -> Iterator[tuple[str, nn.Module, Tensor, str]]:
    """Name, network, input, and the layer that 2:4 leaves out (3 inputs are no multiple of 4)."""
    torch.manual_seed(0)
    layers = [nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1000)]
    yield "fully connected, 2048-2048-2048-1000", nn.Sequential(*layers).eval(), torch.randn(1, 2048), ""
    yield "VGG-16 with batch norm, 32×32", create("vgg16_bn_cifar").eval(), torch.randn(1, 3, 32, 32), "features.0"


def variants(model: nn.Module, out: str) -> dict[str, nn.Module]:
    ignore = [out] if out else []
    return {
        "dense": model,
        "90 % zeros": sparsify(model, ratio=0.9, ignore=ignore).model,
        "2:4": sparsify(model, pattern="2:4", ignore=ignore).model,
    }


def zeros(count: int) -> None:
    """The same shapes with and without zeros, in every installed runtime."""
    for name, model, x, out in networks():
        for runtime in IN:
            if _done(kind="zeros", network=name, runtime=runtime) or not installed(RUNTIMES[runtime]):
                continue
            with tempfile.TemporaryDirectory() as folder:
                programs = {k: _open(m, x, runtime, Path(folder)) for k, m in variants(model, out).items()}
                _compare(programs, x, count, kind="zeros", network=name, runtime=runtime,
                         version=RUNTIMES[runtime].version())  # fmt: skip


def _open(model: nn.Module, x: Tensor, runtime: str, folder: Path) -> Program:
    if RUNTIMES[runtime].modules:
        return RUNTIMES[runtime].open(model, 1)
    path = folder / f"{id(model)}{RUNTIMES[runtime].suffix}"
    export(model, x, path)
    return RUNTIMES[runtime].open(path, 1)


def layers() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Single layers with the shape of one input."""
    torch.manual_seed(0)
    yield "linear 4096 → 4096", nn.Linear(4096, 4096), (4096,)
    yield "1×1 convolution 512 → 512, 14×14", nn.Conv2d(512, 512, 1), (512, 14, 14)
    yield "linear 25088 → 4096 (VGG-16)", nn.Linear(25088, 4096), (25088,)


def products(count: int) -> None:
    """Dense in PyTorch and in ONNX Runtime against sparse products, layer by layer."""
    for name, layer, shape in layers():
        for form, height in FORMS.items():
            for share in SHARES:
                for batch in BATCHES:
                    if not _done(kind="product", layer=name, form=form, zeros=share, batch=batch):
                        sparse = with_zeros(layer, share, height)
                        facts = {"kind": "product", "layer": name, "form": form, "zeros": share, "batch": batch}
                        _product(sparse, torch.randn(batch, *shape), count, **facts)


def with_zeros(layer: nn.Module, share: float, height: int) -> nn.Module:
    """A copy with random blocks of zeros, ``height`` rows tall: time does not depend on the values."""
    sparse = copy.deepcopy(layer).eval()
    matrix = sparse.weight.data.flatten(1)
    stays = torch.rand(matrix.shape[0] // height, matrix.shape[1]) >= share
    sparse.weight.data *= stays.repeat_interleave(height, 0).view_as(sparse.weight)
    return sparse


def _product(sparse: nn.Module, x: Tensor, count: int, **facts: Any) -> None:
    made = {kind: make(sparse.weight.detach().flatten(1)) for kind, make in PRODUCTS.items()}
    pytorch = RUNTIMES["pytorch"].open
    programs = {"dense": pytorch(sparse, 1)}
    programs |= {kind: pytorch(_standing_for(sparse, m), 1) for kind, m in made.items() if m is not None}
    with tempfile.TemporaryDirectory() as folder:
        programs["ONNX Runtime, dense"] = _open(sparse, x, "onnxruntime", Path(folder))
        _compare(programs, x, count, **facts)


def _busy(call: Callable[[], object]) -> TimedCall:
    """Like ``timed``, by the processor time of this process."""

    def run(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            call()
        return (time.process_time() - start) / calls

    return run


def _compare(programs: Mapping[str, Program], x: Tensor, count: int, **facts: Any) -> None:
    """Times the programs in turn and keeps the row: medians, and time of the dense one over theirs, by round."""
    prepared = {name: program.prepare(x) for name, program in programs.items()}
    runs = {n: _busy(lambda n=n: programs[n].run(prepared[n])) for n in programs}
    with thread_count(1), no_gc():
        _, samples = rounds(runs, budget_s=1000, rounds=count, warmup=1)
    ratios = {n: spread([a / b for a, b in zip(samples["dense"], samples[n], strict=True)]) for n in samples}
    row = {
        **facts,
        "ms": {n: round(spread(values).median, 4) for n, values in samples.items()},
        "speedup": {n: [round(r.median, 3), round(r.q25, 3), round(r.q75, 3)] for n, r in ratios.items()},
        "rounds": len(samples["dense"]),
    }
    print(row, flush=True)
    write("sparse_kernels", [*read("sparse_kernels"), row], threads=1, seed=0, clock="processor time")


def _done(**facts: Any) -> bool:
    return any(all(row.get(k) == v for k, v in facts.items()) for row in read("sparse_kernels"))


# ------------------------------------------------------------------------------------------------------ tables


def tables() -> None:
    """Writes both tables into the page."""
    rows = read("sparse_kernels")
    lines = [
        [r["network"], r["version"], f"{r['ms']['dense']:.2f} ms", _ratio(r, "90 % zeros"), _ratio(r, "2:4")]
        for r in rows
        if r["kind"] == "zeros"
    ]
    into_docs(DOCS, "zeros", table(["network", "runtime", "dense", "90 % zeros", "2:4"], lines))
    head = ["layer", "batch", "zeros", "where", "PyTorch dense", "ONNX Runtime dense", "row-wise", "gathered"]
    lines = [
        [r["layer"], r["batch"], f"{r['zeros']:.0%}", r["form"], f"{r['ms']['dense']:.3g} ms",
         f"{r['ms']['ONNX Runtime, dense']:.3g} ms", _product_cell(r, "row-wise"), _product_cell(r, "gathered")]
        for r in sorted((r for r in rows if r["kind"] == "product"), key=_order)
    ]  # fmt: skip
    into_docs(DOCS, "products", table(head, lines))


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    names = [name for name, *_ in layers()]
    return names.index(row["layer"]), row["batch"], list(FORMS).index(row["form"]), row["zeros"]


def _ratio(row: dict[str, Any], name: str) -> str:
    middle, low, high = row["speedup"][name]
    return f"{middle:.2f}× ({low:.2f}–{high:.2f})"


def _product_cell(row: dict[str, Any], kind: str) -> str:
    if kind not in row["ms"]:
        return "–"
    against = row["ms"]["ONNX Runtime, dense"] / row["ms"][kind]
    return f"{row['ms'][kind]:.3g} ms, {row['speedup'][kind][0]:.2f}× / {against:.2f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["zeros", "products", "table"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.part in (None, "zeros"):
        zeros(options.rounds)
    if options.part in (None, "products"):
        products(options.rounds)
    tables()


if __name__ == "__main__":
    main()
