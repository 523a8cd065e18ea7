"""What was tried to get more out of choice and repair, and did not help enough to be built in.

    python benchmarks/repair_tries.py --cifar ARCHIVE --imagenet ARCHIVE --weights FOLDER [--only NETWORK …] [--tries …]

The networks, images and layers of league.py; channels chosen by `reconstruction`, repaired by `recover`:

- *as it is*;
- *channels by local search*: the same widths, but the channels of every layer are OSSCAR's, which exchanges channels
  as long as that lowers the layer's error; how many channels are other ones is said;
- *in 2 steps*, *in 4 steps*: cut a part of the way, repaired, scored anew on the repaired network, and so on; in the
  end the chosen channels are cut from the dense network and repaired at once;
- *mirror images* (MobileNetV2, which has 200 images): twice the calibration images;
- *ridge 0.1*: in the place of one that is cross-validated layer by layer.

Rows that are there are not done again. Writes results/repair_tries.json and the table of docs/recovery.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from league import CALIBRATION, KEPT, Bench, arguments, osscar
from records import into_docs, read, table, write

import secateur
from secateur.cut.pruned import Pruned

NAME = "repair_tries"
DOCS = Path(__file__).resolve().parents[1] / "docs/recovery.md"


def repaired(bench: Bench, cut: Pruned, **options: Any) -> Pruned:
    x = options.pop("x", bench.images[0])
    return secateur.recover(cut, x, dense=bench.model, seed=bench.seed, **options)


def by_local_search(bench: Bench, kept: float) -> tuple[Pruned, str]:
    cut = bench.cut(kept, "reconstruction")
    other, _ = osscar(bench, cut)
    before, after = (
        [set(p.plan.keep[m.parameter][m.dim]) for g in cut.groups for m in g.group.members[:1] if g.kept < len(g.group)]
        for p in (cut, other)
    )
    changed = sum(len(a - b) for a, b in zip(before, after, strict=True))
    return repaired(bench, other), f"{changed} of {sum(map(len, before))} channels are other ones"


def in_steps(bench: Bench, kept: float, steps: int) -> tuple[Pruned, str]:
    x, current = bench.images[0], bench.model
    whole = secateur.count(bench.model, x[:1]).macs
    for step in range(1, steps + 1):
        macs = int(whole * (1 - (1 - kept) * step / steps))
        cut = secateur.prune(current, x[:2], macs=macs, criterion="reconstruction", ignore=bench.uncut(), data=x)
        fixed = repaired(bench, secateur.apply(bench.model, cut.plan, x[:2]))
        current = fixed.model
    return fixed, ""


def _with_mirror(bench: Bench, kept: float) -> tuple[Pruned, str]:
    x = bench.images[0]
    return repaired(bench, bench.cut(kept, "reconstruction"), x=torch.cat([x, x.flip(3)])), ""


Try = Callable[[Bench, float], tuple[Pruned, str]]
TRIES: dict[str, Try] = {
    "as it is": lambda bench, kept: (repaired(bench, bench.cut(kept, "reconstruction")), ""),
    "channels by local search": by_local_search,
    "in 2 steps": partial(in_steps, steps=2),
    "in 4 steps": partial(in_steps, steps=4),
    "mirror images": _with_mirror,
    "ridge 0.1": lambda bench, kept: (repaired(bench, bench.cut(kept, "reconstruction"), ridge=0.1), ""),
}


def page(rows: list[dict[str, Any]]) -> str:
    body = [[r["network"], r["kept"], r["seed"], r["way"], f"{r['top1']:.2f}", r["said"]] for r in rows]
    return table(["network", "MACs", "seed", "way", "top-1, %", ""], body)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tries", nargs="+", default=list(TRIES), choices=list(TRIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        for name in options.only:
            bench = Bench(name, seed, options)
            for kept in KEPT[name]:
                for way in options.tries:
                    if name == "mobilenet_v2" or way != "mirror images":  # the others have theirs already
                        _one(bench, kept, way)


def _one(bench: Bench, kept: float, way: str) -> None:
    rows = read(NAME)
    key = {"network": bench.name, "kept": kept, "seed": bench.seed, "way": way}
    if any(all(r[k] == v for k, v in key.items()) for r in rows):
        return
    began = time.process_time()
    found, said = TRIES[way](bench, kept)
    seconds = round(time.process_time() - began, 1)
    rows.append(key | {"top1": bench.top1(found.model), "dense": bench.dense, "cpu_seconds": seconds, "said": said})
    print(rows[-1], flush=True)
    write(NAME, rows, threads=torch.get_num_threads(), calibration=CALIBRATION)
    into_docs(DOCS, "tries", page(rows))


if __name__ == "__main__":
    main()
