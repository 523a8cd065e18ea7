"""Milliseconds of single operators, measured inside the running network."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.core.modes import no_gc
from secateur.graph.calling import preserved_rng
from secateur.graph.traced import Traced
from secateur.graph.writes import written
from secateur.timing.rounds import thread_count

__all__ = ["operator_times"]


def operator_times(traced: Traced, *, rounds: int = 7, warmup: int = 2, threads: int = 1) -> dict[Node, float]:
    """Times every operator of a traced network on its example inputs: milliseconds per sample, median of rounds.

    Each round runs the whole network, so operators meet the caches as they do in use, and a machine that slows
    down slows all of them.

    Args:
        traced: The network.
        rounds: Rounds that count.
        warmup: Rounds before them.
        threads: Threads inside an operator.
    """
    clock = _Clock(traced)
    inputs = pytree.tree_leaves((traced.args, traced.kwargs))
    with torch.no_grad(), thread_count(threads), no_gc(), preserved_rng(*(v for v in inputs if isinstance(v, Tensor))):
        for round_ in range(warmup + rounds):
            clock.counts = round_ >= warmup
            clock.run(*(v.clone() if isinstance(v, Tensor) else v for v in inputs), enable_io_processing=False)
    return {node: median(samples) / traced.batch for node, samples in clock.samples_ms.items()}


class _Clock(Interpreter):
    """Runs a graph and times its operators."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.module)
        self.counts = True
        self.samples_ms: dict[Node, list[float]] = {}
        self._own = written(traced.module)

    def run_node(self, n: Node) -> Any:
        if n.op == "get_attr" and n.target in self._own:
            return self._own[str(n.target)]
        start = perf_counter()
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_cuda:
            torch.cuda.synchronize(value.device)
        if self.counts and n.op == "call_function":
            self.samples_ms.setdefault(n, []).append(1e3 * (perf_counter() - start))
        return value
