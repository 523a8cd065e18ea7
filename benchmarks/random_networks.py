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
the dense network.

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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import secateur
from secateur.errors import BudgetError, SecateurError, VerificationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from drawn import KINDS, Kept, draw
from drawn.network import Drawn

DOCS = Path(__file__).resolve().parents[1] / "docs/random-networks.md"
CHECKS = ("auto", "graph", "batch", "size", "reload", "twice")
ORDER = ("WRONG", "crash", "unverified", "refused", "single", "nothing", "exact")
EXACT, SINGLE = 1e-9, 1e-5


class Reference:
    """The masked dense network, in double precision and (for what rounding alone does) in single.

    Args:
        drawn: The network.
        keep: The plan's kept indices.
    """

    def __init__(self, drawn: Drawn, keep: Mapping[str, Any]) -> None:
        self.model, self.plain = doubled(drawn.model), copy.deepcopy(drawn.model)
        self.kept, self.plain_kept = Kept(keep, self.model), Kept(keep, self.plain)

    def outputs(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        given = double(inputs)
        with torch.no_grad():
            return self.model.masked(given["x"], given.get("z"), self.kept)

    def rounded(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return self.plain.masked(inputs["x"], inputs.get("z"), self.plain_kept)


def double(tree: Any) -> Any:
    return pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, tree)


def doubled(model: nn.Module) -> Any:
    """A copy in double precision, complex tensors too."""
    twin = copy.deepcopy(model).double()
    return twin._apply(lambda t: t.to(torch.complex128) if t.is_complex() else t)


def _widen(graph: GraphModule) -> None:
    """Lets a traced graph compute in double precision: it checks types and names single where the code did not."""
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
            continue
        node.args = pytree.tree_map(lambda v: wide.get(v, v) if isinstance(v, torch.dtype) else v, node.args)
        node.kwargs = {k: wide.get(v, v) if isinstance(v, torch.dtype) else v for k, v in node.kwargs.items()}
    graph.recompile()


def outputs(model: nn.Module, inputs: dict[str, Tensor], how: str) -> list[Tensor]:
    """What a network gives; the graph back end wants inputs as they were given to the tracer."""
    with torch.no_grad():
        found = model(**inputs) if how == "named" else model(*inputs.values())
    return [t for t in pytree.tree_leaves(found) if isinstance(t, Tensor)]


def compared(drawn: Drawn, model: nn.Module, reference: Reference, **sizes: int) -> str:
    """The outcome for two inputs, by max |pruned − masked| / how far apart the inputs' masked outputs are.

    Where casts in the user's code end double precision, the network runs as it is, and ten times what rounding does to
    the reference is allowed.
    """
    pairs = [drawn.inputs(number, **sizes) for number in (1, 2)]
    want = [reference.outputs(x) for x in pairs]
    how = drawn.model.settings["call"]
    if not drawn.single:
        twin = doubled(model)
        if isinstance(twin, GraphModule):
            _widen(twin)
        error = gap([outputs(twin, double(x), how) for x in pairs], want)
        return "exact" if error <= EXACT else f"WRONG: off by {error:.1e}"
    error = gap([outputs(model, x, how) for x in pairs], want)
    noise = gap([reference.rounded(x) for x in pairs], want)
    return "single" if error <= 10 * noise + SINGLE else f"WRONG: off by {error:.1e}, rounding {noise:.1e}"


def gap(got: list[list[Tensor]], want: list[list[Tensor]]) -> float:
    """The largest difference, relative to what the input moves; ∞ where shapes or numbers of outputs differ.

    Outputs that the input does not move (a mean of what was normalised) are measured by their own size.
    """
    worst = 0.0
    for mine, true in zip(zip(*got, strict=True), zip(*want, strict=True), strict=True):
        if any(a.shape != b.shape for a, b in zip(mine, true, strict=True)):
            return float("inf")
        moved, size = float((true[0] - true[1]).abs().max()), float(true[0].abs().max())
        scale = (moved if moved > 1e-6 * size else size) or 1.0
        off = max(float((a - b).abs().nan_to_num(1e30, 1e30, 1e30).max()) for a, b in zip(mine, true, strict=True))
        worst = max(worst, off / scale)
    return worst


def outcome(check: Callable[[], str]) -> str:
    """The outcome of a check, in words."""
    try:
        return check()
    except VerificationError as error:
        return f"unverified: {_brief(error)}"
    except BudgetError as error:
        return "nothing" if "Nothing can be pruned" in str(error) else f"refused: {_brief(error)}"
    except SecateurError as error:
        return f"refused: {_brief(error)}"
    except Exception as error:
        return f"crash: {_brief(error)}"


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


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


def _reloaded(drawn: Drawn, pruned: Any, reference: Reference) -> str:
    """The artifact, loaded without the user's class and with it."""
    with tempfile.TemporaryDirectory() as folder:
        pruned.save(folder, graph=True)
        alone = secateur.load(folder)
        filled = secateur.load(folder, model=copy.deepcopy(drawn.model))
    return worst(compared(drawn, model, reference) for model in (alone, filled))


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


def worst(found: Iterable[str]) -> str:
    """The worst of several outcomes."""
    return min(found, key=lambda text: ORDER.index(kind_of(text)), default="nothing")


def kind_of(text: str) -> str:
    return text.partition(":")[0]


# ---------------------------------------------------------------------------------------------------------- tables


def of_row(row: Mapping[str, Any]) -> str:
    """The outcome of a network: the worst over all of its checks."""
    return kind_of(worst(row[c] for c in CHECKS if c in row))


def render(rows: list[dict[str, Any]]) -> str:
    """What came out of every check, of every construction, and every failure in words."""
    shown = [o for o in reversed(ORDER)]
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
           if kind_of(r.get(c, "exact")) in ("WRONG", "crash", "unverified")]  # fmt: skip
    return text + ("\n\nWhat failed:\n\n" + table(["seed", "check", "outcome"], bad) if bad else "\n\nNothing failed.")


NAMES = {"auto": "`backend=\"auto\"`", "graph": "`backend=\"graph\"`", "batch": "another batch", "size": "another size",
         "reload": "saved and loaded", "twice": "cut twice"}  # fmt: skip


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
            if of_row(row) in ("WRONG", "crash", "unverified"):
                print(row["seed"], row["kinds"], *(f"{c}={row[c]}" for c in CHECKS if kind_of(row.get(c, "exact")) not in
                      ("exact", "nothing")), sep=" | ", flush=True)  # fmt: skip
            if count % 20 == 0 or count == len(todo):
                write(name, sorted(rows, key=lambda r: r["seed"]), kinds=sorted(KINDS))
    print(Counter(map(of_row, rows)))
    if given.only is None:
        into_docs(DOCS, "random-networks", render(sorted(rows, key=lambda r: r["seed"])))


def _star(given: tuple[int, str | None]) -> dict[str, Any]:
    return one(*given)


if __name__ == "__main__":
    main()
