"""A comparison over a Ray cluster that loses a node, and whose driver is killed: `python benchmarks/many_jobs.py`.

Six recipes on the built-in digits, compared three ways: in one process at a time on this machine; over a cluster of
three nodes that is started on this machine (`ray.cluster_utils`), one of which is killed in the middle, as is the
command itself, which `secateur resume` then goes on with; and over a cluster with one and with two places for jobs, for
the seconds. What is not a time has to be the same in all of them. Everything that is done is kept in `--place`, and
a second start goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import records

from secateur.recipe.comparison import Comparison

PAGE = Path(__file__).parents[1] / "docs" / "comparing.md"
RECIPES = ("transfer-channel", "slimming", "network-trimming", "lasso-channel", "thinet", "layer-pruning")
CLOCK = {"forward_ms", "backward_ms", "seconds", "weight_bytes"}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def compare(out: Path, given: argparse.Namespace, *where: str) -> list[str]:
    options = ["--model", "resnet_digits", "--data", "digits", "--epochs", str(given.epochs), "--macs", "0.6"]
    options += ["--set", f"data.limit={given.limit}", "--quiet", *where, "--out", str(out)]
    return [sys.executable, "-m", "secateur", "compare", *given.recipes, *options]


def resume(out: Path, *where: str) -> list[str]:
    return [sys.executable, "-m", "secateur", "resume", str(out), "--quiet", *where]


def table(out: Path) -> list[dict[str, Any]]:
    """What is in the table, but what a clock said and how many bytes a file's header takes."""
    rows = [row.__dict__ for row in Comparison.read(out).rows]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Nodes with a place for one job each, the head's among them."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(**NODE)
    try:
        yield made
    finally:
        made.shutdown()


def until(what: Any, process: subprocess.Popen[Any]) -> None:
    while not what():
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(process.args)} ended with {process.returncode}")
        time.sleep(0.1)


def done(out: Path) -> int:
    """Steps that are done in all runs."""
    found = out.glob("runs/*/state.json")
    return sum(len(json.loads(path.read_text())["done"]) for path in found)


def timed(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - start


def killed(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The comparison over three nodes, one of which is killed in the middle, and the command with it killed later."""
    out = place / "killed"
    with cluster(3) as made:
        where = ("--ray", made.address)
        first = subprocess.Popen(compare(out, given, *where), stdout=subprocess.PIPE, text=True)
        until(lambda: done(out) >= 3, first)
        made.remove_node(sorted(made.worker_nodes, key=lambda node: node.node_id)[0], allow_graceful=False)
        until(lambda: done(out) >= 6, first)
        first.send_signal(signal.SIGKILL)
        said, _ = first.communicate()
        kept = done(out)
        subprocess.run(resume(out, *where), check=True)
    return {"steps when the command was killed": kept, "jobs that lost their node": said.count("goes on elsewhere")}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--place", type=Path, default=Path("runs/many_jobs"), help="where everything lies")
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--limit", type=int, default=1000, help="training images")
    arguments.add_argument("--recipes", nargs="*", default=list(RECIPES))
    arguments.add_argument("--result", default="many_jobs", help="name of the result, for a trial of the script itself")
    given = arguments.parse_args()
    place = given.place.absolute()
    place.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    rows = {row["way"]: row for row in records.read(given.result)} if (place / "here").exists() else {}

    def note(way: str, out: str, **facts: Any) -> None:
        same = table(place / out) == table(place / "here")
        rows[way] = {"way": way, "same_table": same, "load": os.getloadavg()[0], **facts}
        records.write(given.result, list(rows.values()), epochs=given.epochs, limit=given.limit, recipes=given.recipes)
        print(rows[way], flush=True)

    if "here" not in rows:
        note("here", "here", seconds=timed(compare(place / "here", given, "--jobs", "1")))
    if "killed" not in rows:
        note("killed", "killed", **killed(place, given))
    for workers in (1, 2):
        way = f"{workers} on the cluster"
        if way not in rows:
            with cluster(workers) as made:
                out = f"workers-{workers}"
                seconds = timed(compare(place / out, given, "--ray", made.address))
            note(way, out, seconds=seconds)
    if given.result != "many_jobs":
        return
    shown = [[row["way"], "yes" if row["same_table"] else "NO", f"{row['seconds']:.0f} s" if "seconds" in row else "–"]
             for row in rows.values()]  # fmt: skip
    records.into_docs(PAGE, "many-jobs", records.table(["", "same table", "took"], shown))


if __name__ == "__main__":
    main()
