"""Seconds to find what must be cut together in ResNet-50: Secateur beside Torch-Pruning's dependency graph.

Run: python benchmarks/flow_time.py [NETWORK] [ROUNDS]

The two take turns in one process, one thread, in shuffled rounds after a warm-up; the median, the quartiles and
the median of the ratios of the same round are reported.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from networks import build
from records import into_docs, table, write

DOCS = Path(__file__).resolve().parents[1] / "docs/exactness.md"


def secateur_trace(name: str) -> Callable[[], object]:
    from secateur.graph.trace import trace

    model, x = build(name)
    return lambda: trace(model, x)


def secateur_flow(name: str) -> Callable[[], object]:
    from secateur.graph.flow import flow
    from secateur.graph.groups import solve
    from secateur.graph.trace import trace

    model, x = build(name)
    traced = trace(model, x)
    return lambda: solve(flow(traced))


def secateur_both(name: str) -> Callable[[], object]:
    from secateur.graph.flow import flow
    from secateur.graph.groups import solve
    from secateur.graph.trace import trace

    model, x = build(name)
    return lambda: solve(flow(trace(model, x)))


def secateur_prune(name: str) -> Callable[[], object]:
    import secateur

    model, x = build(name)
    return lambda: secateur.prune(model, x, ratio=0.5)


def torch_pruning_graph(name: str) -> Callable[[], object]:
    import torch_pruning

    model, x = build(name)
    return lambda: torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)


def torch_pruning_prune(name: str) -> Callable[[], object]:
    import copy

    import torch_pruning

    model, x = build(name)

    def run() -> None:
        twin = copy.deepcopy(model)
        head = [m for m in twin.modules() if isinstance(m, torch.nn.Linear)][-1:]
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        torch_pruning.pruner.MetaPruner(twin, x, importance, pruning_ratio=0.5, ignored_layers=head).step()

    return run


CONTENDERS = {
    "Secateur: trace": secateur_trace,
    "Secateur: flow and groups": secateur_flow,
    "Secateur: trace, flow and groups": secateur_both,
    "Torch-Pruning: dependency graph": torch_pruning_graph,
    "Secateur: prune to half, verified": secateur_prune,
    "Torch-Pruning: prune to half": torch_pruning_prune,
}
PAIRS = [("Secateur: trace, flow and groups", "Torch-Pruning: dependency graph"),
         ("Secateur: prune to half, verified", "Torch-Pruning: prune to half")]  # fmt: skip


def main(name: str, rounds: int) -> None:
    runs = {label: make(name) for label, make in CONTENDERS.items()}
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    order = random.Random(0)
    for round_ in range(rounds + 1):
        for label in order.sample(list(runs), len(runs)):
            start = time.perf_counter()
            runs[label]()
            if round_:  # the first round warms up
                seconds[label].append(time.perf_counter() - start)
    rows = [
        {"what": k, "median_s": median(v), "quartiles_s": [quantiles(v)[0], quantiles(v)[2]]}
        for k, v in seconds.items()
    ]
    ratios = []
    for ours, theirs in PAIRS:
        r = [a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
        ratios.append(
            {"ours": ours, "theirs": theirs, "median": median(r), "quartiles": [quantiles(r)[0], quantiles(r)[2]]}
        )
    write("flow_time", rows, network=name, rounds=rounds, threads=1, ratios=ratios)
    body = [[r["what"], f"{r['median_s']:.2f}", f"{r['quartiles_s'][0]:.2f}–{r['quartiles_s'][1]:.2f}"] for r in rows]
    text = table(["what", "median, s", "quartiles, s"], body) + "".join(
        "\n\n{ours} takes {median:.2f}× (quartiles {quartiles[0]:.2f}–{quartiles[1]:.2f}) of {theirs}.".format(**r)
        for r in ratios
    )
    into_docs(DOCS, "flow_time", text)
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "torchvision:resnet50", int(sys.argv[2]) if len(sys.argv) > 2 else 9)
