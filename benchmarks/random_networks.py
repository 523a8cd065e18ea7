"""Random networks, each pruned at random and compared with a masked reference that Secateur has no part in.

Run: python benchmarks/random_networks.py [--count 2000] [--seed 0] [--jobs 1] [--only CONSTRUCTION] [--again]
     python benchmarks/random_networks.py --show SEED

A network is a stem, two to six constructions out of those in tests/drawn, and heads; all of it follows from the seed
alone. It is pruned with random scores, ratio, scope and granularity by both back ends. What comes out is compared, in
double precision, with the reference that the constructions carry themselves: the user's own dense modules with every
removed entry of every parameter and buffer set to zero, and, for means, norms, softmax and extrema over channels, the
same plain PyTorch on the kept channels, picked out by the plan (tests/drawn says more). Nothing of it goes through
Secateur's graph, labels or verification. The largest accepted difference is 1e-9 of what another input moves in the
output.

Checked are (a) other inputs of the traced shape, (b) another batch size, (c) other heights, widths and lengths where
the dense network takes them, (d) for every fifth network the artifact, loaded with and without the user's class, and
(e) for every fourth a second cut of the cut network, which has to be right, and equal to the composed plan applied to
the dense network, and (f) that the recorder finds the groups that are found through torch.export.

Outcomes: exact; single (right to 1e-5: a cast in the user's code ends double precision); nothing (no unit is free);
refused (a SecateurError, in words); unverified (refused because Secateur's own check failed: safe, but a rule is to be
mended); crash (any other exception); WRONG. Writes results/random_networks.json as it goes, and the tables in
docs/random-networks.md; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import nn

import secateur
from secateur.core.errors import BudgetError
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.trace import trace, without_recorder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from drawn import KINDS, draw
from drawn.check import ORDER, Reference, compared, kind_of, outcome, worst
from drawn.network import Drawn

DOCS = Path(__file__).resolve().parents[1] / "docs/random-networks.md"
BAD = ("WRONG", "crash", "unverified")
CHECKS = ("auto", "graph", "batch", "size", "reload", "twice", "tracer")


def one(seed: int, only: str | None = None) -> dict[str, Any]:
    """Draws the network of a seed and checks everything about it."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    drawn = draw(seed, only)
    row: dict[str, Any] = {"seed": seed, "kinds": " ".join(drawn.kinds)} | ({"only": only} if only else {})
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(120)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(drawn, row)
    except TimeoutError:
        row["auto"] = "crash: more than 120 s"
    finally:
        signal.alarm(0)
    return row | {"seconds": round(time.perf_counter() - start, 2)}


def _out_of_time(*_: Any) -> None:
    raise TimeoutError


def _check(drawn: Drawn, row: dict[str, Any]) -> None:
    rng = random.Random(-1 - drawn.seed)
    example = drawn.example()
    settings = {"ratio": rng.choice((0.2, 0.3, 0.5, 0.7, 0.9)), "granularity": rng.choice(("auto", "whole", "within")),
                "scope": rng.choice(("local", "global")), "criterion": "random", "seed": drawn.seed}  # fmt: skip
    found: dict[str, Any] = {}

    def pruned(backend: str) -> str:
        made = secateur.prune(drawn.model, example, backend=backend, **settings)
        row["unsupported"] = " ".join(sorted({u.operator for u in made.unsupported}))
        if not made.plan.keep:
            return "nothing"
        found[backend] = made, Reference(drawn, made.plan.keep)
        return compared(drawn, *_parts(found[backend]))

    row["auto"] = outcome(lambda: pruned("auto"))
    if "auto" in found and found["auto"][0].backend == "graph":
        row["graph"] = row["auto"]
    else:
        row["graph"] = outcome(lambda: pruned("graph"))
    if "auto" in found:
        row["backend"] = found["auto"][0].backend
    made = [found[name] for name in dict.fromkeys(found) if name in found]
    for check, sizes in (("batch", {"batch": 5}), ("size", {"more": 2})):
        if _takes(drawn, **sizes):
            row[check] = worst(outcome(lambda p=p, s=sizes: compared(drawn, *_parts(p), **s)) for p in made)
    if made and drawn.seed % 5 == 0:
        row["reload"] = worst(outcome(lambda p=p: _reloaded(drawn, *p)) for p in made)
    row["tracer"] = outcome(lambda: _traced_alike(drawn, example))
    if made and drawn.seed % 4 == 0:
        row["twice"] = outcome(lambda: _twice(drawn, made[0][0], settings))


def _parts(found: tuple[Any, Reference]) -> tuple[nn.Module, Reference]:
    return found[0].model, found[1]


def _takes(drawn: Drawn, **sizes: int) -> bool:
    """Whether the dense network runs on inputs of these sizes, and whether they differ from the traced ones."""
    given = drawn.inputs(1, **sizes)
    if all(a.shape == b.shape for a, b in zip(given.values(), drawn.inputs(0).values(), strict=True)):
        return False
    try:
        with torch.no_grad():
            drawn.model(**given)
    except Exception:
        return False
    return True


def _traced_alike(drawn: Drawn, example: Any) -> str:
    """The recorder finds the groups that are found through torch.export; ``nothing`` where it gives way to it."""
    recorded = trace(drawn.model, example)
    if not recorded.recorded:
        return "nothing"
    with without_recorder():
        exported = trace(drawn.model, example)
    one, other = ([(g.name, len(g), [(m.parameter, m.dim) for m in g.members]) for g in solve(flow(found)).items]
                  for found in (recorded, exported))  # fmt: skip
    return "exact" if one == other else "WRONG: other groups than through torch.export"


def _reloaded(drawn: Drawn, pruned: Any, reference: Reference) -> str:
    """The artifact, loaded without the user's class and with it."""
    with tempfile.TemporaryDirectory() as folder:
        pruned.save(folder, graph=True)
        alone = secateur.load(folder)
        filled = secateur.load(folder, model=copy.deepcopy(drawn.model))
    return worst(compared(drawn, loaded.model, reference) for loaded in (alone, filled))


def _twice(drawn: Drawn, first: Any, settings: dict[str, Any]) -> str:
    """A cut of the cut network: right, and the same as its composed plan on the dense one."""
    again = settings | {"seed": drawn.seed + 1}
    try:
        second = secateur.prune(first.model, drawn.example(), **again)
    except BudgetError:
        return "nothing"
    reference = Reference(drawn, second.plan.keep)
    once = secateur.apply(drawn.model, second.plan, drawn.example())
    return worst(compared(drawn, p.model, reference) for p in (second, once))


# ---------------------------------------------------------------------------------------------------------- tables


def of_row(row: Mapping[str, Any]) -> str:
    """The outcome of a network: the worst over all of its checks."""
    return kind_of(worst(row[c] for c in CHECKS if c in row))


def render(rows: list[dict[str, Any]]) -> str:
    """What came out of every check, of every construction, and every failure in words."""
    shown = list(reversed(ORDER))
    head = ["check", "networks", *shown]
    body = []
    for check in CHECKS:
        counts = Counter(kind_of(r[check]) for r in rows if check in r)
        body.append([NAMES[check], sum(counts.values()), *(counts[o] or "" for o in shown)])
    text = f"{len(rows):,} networks of {len(KINDS)} kinds of constructions.\n\n" + table(head, body)
    lines = []
    for name in sorted(KINDS):
        own = [r for r in rows if name in r["kinds"].split()]
        counts = Counter(of_row(r) for r in own)
        lines.append([f"`{name}`", len(own), *(counts[o] or "" for o in shown)])
    text += "\n\nNetworks with each construction, by the worst outcome of all their checks:\n\n"
    text += table(["construction", "networks", *shown], lines)
    bad = [[r["seed"], c, r[c].replace("|", "/")[:160]] for r in rows for c in CHECKS
           if kind_of(r.get(c, "exact")) in BAD]  # fmt: skip
    return text + ("\n\nWhat failed:\n\n" + table(["seed", "check", "outcome"], bad) if bad else "\n\nNothing failed.")


NAMES = {"auto": "`backend=\"auto\"`", "graph": "`backend=\"graph\"`", "batch": "another batch", "size": "another size",
         "reload": "saved and loaded", "twice": "cut twice",
         "tracer": "recorder and torch.export: the same groups"}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description="Random networks against independent references.")
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0, help="first seed")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--only", choices=sorted(KINDS), help="a construction that every network contains")
    arguments.add_argument("--again", action="store_true", help="forget what was written before")
    arguments.add_argument("--show", type=int, help="check the network of one seed, print everything, write nothing")
    given = arguments.parse_args()
    if given.show is not None:
        print(draw(given.show, given.only).model)
        for key, value in one(given.show, given.only).items():
            print(f"{key:12} {value}")
        return
    name = "random_networks" if given.only is None else f"random_networks_{given.only}"
    rows = [] if given.again else read(name)
    done = {r["seed"] for r in rows}
    todo = [(seed, given.only) for seed in range(given.seed, given.seed + given.count) if seed not in done]
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=200) as pool:
        for count, row in enumerate(pool.imap_unordered(_star, todo), 1):
            rows.append(row)
            if of_row(row) in BAD:
                failed = [f"{c}={row[c]}" for c in CHECKS if kind_of(row.get(c, "exact")) in BAD]
                print(row["seed"], row["kinds"], *failed, sep=" | ", flush=True)
            if count % 20 == 0 or count == len(todo):
                write(name, sorted(rows, key=lambda r: r["seed"]), kinds=sorted(KINDS))
    print(Counter(map(of_row, rows)))
    if given.only is None:
        into_docs(DOCS, "random-networks", render(sorted(rows, key=lambda r: r["seed"])))


def _star(given: tuple[int, str | None]) -> dict[str, Any]:
    return one(*given)


if __name__ == "__main__":
    main()
