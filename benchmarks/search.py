"""A search on ResNet-20 with CIFAR-10, without training: `python benchmarks/search.py --data cifar10-jpeg.tar.xz`.

Sixty trials of `secateur.search` (metric on images that may decide against MACs), started with `--workers` processes
that share one study. A search that is stopped goes on when the script is started again. Beside its front stand the cuts
by the criterion `l2` with equal ratios, and those with the ratios of measured sensitivity, at the MACs of the front's
networks; all of them are measured on the test images.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import records

import secateur
from secateur.data import load
from secateur.models import create, load_weights

SELF = Path(__file__).resolve()


def opened(given: argparse.Namespace) -> tuple[object, object]:
    data = load(f"cifar10:{given.data}", limit=given.limit)
    model = create("resnet20")
    load_weights(model, given.weights)
    return model.eval(), data


def work(given: argparse.Namespace) -> secateur.searching.Searched:
    model, data = opened(given)
    return secateur.search(
        model, data, given.place, trials=given.trials, criteria=["l2", "l1", "taylor"], images=given.images,
        repair=given.repair, seed=given.seed,
        on_trial=lambda tried: print(tried.number, f"{tried.value:.2f}", f"{tried.cost:,.0f}", flush=True),
    )  # fmt: skip


def beside(given: argparse.Namespace, found: secateur.searching.Searched) -> list[dict[str, object]]:
    """The test metric of the front, and of cuts to the same MACs with equal ratios and with those of sensitivity."""
    model, data = opened(given)
    inputs = data.sample(2)
    curves = secateur.sensitivity(model, inputs, data=data)
    rows = []
    for one in found.front:
        row = {"macs": one.cost, "search": one.test["top1"]}
        ways = {"equal": lambda m: secateur.prune(model, inputs, macs=m),
                "sensitivity": lambda m: secateur.prune(model, inputs, ratio=curves.ratios(macs=m))}  # fmt: skip
        for name, cut in ways.items():
            try:
                row[name] = secateur.evaluate(cut(one.cost).model, data).metrics["top1"]
            except secateur.BudgetError:
                row[name] = None
        rows.append(row)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", required=True, help="the archive of CIFAR-10")
    arguments.add_argument("--weights", required=True, help="trained weights of ResNet-20")
    arguments.add_argument("--place", type=Path, default=Path("runs/search"))
    arguments.add_argument("--trials", type=int, default=60)
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--limit", type=int, help="images of the data set, for a trial of the script itself")
    arguments.add_argument("--repair", action="store_true")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--result", default="search")
    given = arguments.parse_args()
    start = time.perf_counter()
    more = [subprocess.Popen([sys.executable, str(SELF), *sys.argv[1:], "--workers", "1", "--seed", str(given.seed + k),
                              "--result", ""]) for k in range(1, given.workers)]  # fmt: skip
    found = work(given)
    for process in more:
        process.wait()
    if given.result:
        seconds = time.perf_counter() - start
        facts = {"seconds": seconds, "workers": given.workers, "trials": len(found.trials), "refused": found.refused}
        records.write(given.result, beside(given, found), **facts)
        print(found)


if __name__ == "__main__":
    main()
