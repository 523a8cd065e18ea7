"""Label-free tuning behind the repair: what gradient steps on the same images add.

    python benchmarks/tuning.py --cifar ARCHIVE --imagenet ARCHIVE --weights FOLDER [--only NETWORK …] [--seeds 0 1 2]

The networks, cuts and calibration images of league.py: inner channels of every block, lowest L1 norm first, the same
share everywhere; 512 images with their mirror images (MobileNetV2: 200). Repaired by `recover`, then tuned with
the defaults: the blocks, then the whole. One thread; CPU seconds are of that step alone. Rows that are there are not
done again. Writes results/tuning.json and the table of docs/recovery.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from league import CALIBRATION, Bench, arguments
from records import into_docs, read, table, write

import secateur
from secateur.cut.pruned import Pruned

NAME = "tuning"
DOCS = Path(__file__).resolve().parents[1] / "docs/recovery.md"
CASES = {"resnet20": (0.5, (0, 1, 2)), "mobilenet_v2": (0.7, (0,)), "resnet56": (0.33, (0,))}
WAYS: dict[str, dict[str, Any]] = {
    "recover alone": {},
    "+ blocks": {"epochs": 0},
    "+ the whole": {"block_epochs": 0},
}
HEAD = ("network", "MACs", "seeds", "dense, %", "step", "top-1, %", "CPU seconds of the step", "held-out error")


def rows_of(bench: Bench, kept: float, done: set[str]) -> Iterator[dict[str, Any]]:
    """The repair, and each stage of the tuning behind the one before, as rows."""
    images = bench.images[0]
    network, seconds = _repaired(bench, kept)
    said = ""
    for way, options in WAYS.items():
        if options:
            began = time.process_time()
            network = secateur.tune(network, images, dense=bench.model, seed=bench.seed, **options)
            said, seconds = network.notes[-1], round(time.process_time() - began, 1)
        if way in done:
            continue
        yield {"network": bench.name, "kept": kept, "seed": bench.seed, "way": way, "top1": bench.top1(network.model),
               "dense": bench.dense, "cpu_seconds": seconds, "note": said}  # fmt: skip


def _repaired(bench: Bench, kept: float) -> tuple[Pruned, float | None]:
    """Cut and repaired, and the CPU seconds that took; ``None`` where it was kept from a run before."""
    folder = bench.options.keep and bench.options.keep / f"{bench.name}-{kept}-{bench.seed}"
    if folder and folder.exists():
        return secateur.load(folder, model=bench.model), None
    began = time.process_time()
    network = secateur.recover(bench.cut(kept, "l1"), bench.images[0], dense=bench.model, seed=bench.seed)
    seconds = round(time.process_time() - began, 1)
    if folder:
        network.save(folder)
    return network, seconds


def page(rows: list[dict[str, Any]]) -> str:
    """The table: means over the seeds, with the single values where there are several."""
    body = []
    for name, (kept, _) in CASES.items():
        for way in WAYS:
            own = [r for r in rows if r["network"] == name and r["way"] == way]
            if own:
                values = [r["top1"] for r in sorted(own, key=lambda r: r["seed"])]
                single = f" ({', '.join(f'{v:.2f}' for v in values)})" if len(values) > 1 else ""
                body.append([name, kept, len(own), f"{own[0]['dense']:.2f}", way, f"{mean(values):.2f}{single}",
                             _seconds(own), _held_out(own[0]["note"])])  # fmt: skip
    return table(HEAD, body)


def _seconds(rows: list[dict[str, Any]]) -> str:
    known = [r["cpu_seconds"] for r in rows if r["cpu_seconds"] is not None]
    return f"{mean(known):.1f}" if known else "–"


def _held_out(note: str) -> str:
    """The held-out error before and after, of the first seed."""
    return note.partition("held-out samples ")[2].partition(";")[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of the network's seeds")
    parser.add_argument("--keep", type=Path, help="where repaired networks are kept, to be tuned again another time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        kept, seeds = CASES[name]
        for seed in [s for s in seeds if options.seeds is None or s in options.seeds]:
            done = {r["way"] for r in read(NAME) if (r["network"], r["seed"]) == (name, seed)}
            if done < set(WAYS):
                for row in rows_of(Bench(name, seed, options), kept, done):
                    keep(row)


def keep(row: dict[str, Any]) -> None:
    """Adds a row, to the table too."""
    print(row, flush=True)
    rows = [*read(NAME), row]
    write(NAME, rows, threads=torch.get_num_threads(), calibration=CALIBRATION)
    into_docs(DOCS, NAME, page(rows))


if __name__ == "__main__":
    main()
