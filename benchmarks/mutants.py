"""What "verified" is worth: wrong results planted by the thousand, and how many of them the proof refuses.

Run: python benchmarks/mutants.py [NETWORK ...]                       the proof of this tree, the column "new"
     python benchmarks/mutants.py --proof PATH [NETWORK ...]          the proof of another checkout's src, "old"
     python benchmarks/mutants.py --as NAME …                         another name for the column
     python benchmarks/mutants.py --tables                            the tables alone

Small networks, several kinds of weights, both back ends. Each is cut rightly, and mistakes are made in copies of the
result. Whether a mistake counts is judged without Secateur's proof: the right network and the wrong one are run in
double precision with weights that let everything show. The folder planted/ has the networks, the mistakes and the
judge. Each network has a process of its own. Writes results/mutants.json, a row for every cut, and the tables in
docs/mutants.md; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import attention, convolutions, libraries, modules, nodes, operators, tensors  # noqa: F401 (they register)
from planted.base import KINDS, Cut, Keep, Mistake, drawn, tensors_of
from planted.judge import SAME, Judge, masked_agrees, sharpened, with_weights
from planted.networks import NETWORKS, build
from torch import nn

import secateur
from secateur.core.errors import SecateurError
from secateur.cut.prune import plan_of
from secateur.surgery import prune_graph, prune_module, verify

DOCS = Path(__file__).resolve().parents[1] / "docs/mutants.md"
PLANTED = 30
"""Mistakes per cut and back end."""
CUTS = [("auto", 0.5), ("within", 0.25), ("whole", 0.5)]
SEEDS = (11, 12, 13)
OUTCOMES = ("planted", "equivalent", "counting", "caught", "fails", "refused")


# --------------------------------------------------------------------------------------------------- the cuts


def proof_of(pruned: nn.Module, groups: Any, label_keep: Any, keep: Keep) -> str:
    """``proven``, ``not proven`` or what refused it."""
    try:
        found = verify(pruned, groups, label_keep, keep)
    except SecateurError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"does not run: {type(error).__name__}"
    return "proven" if getattr(found, "proven", True) else "not proven"


def kept_units(groups: Any, ratio: float, rng: random.Random) -> Any:
    keep = np.ones(groups.units, dtype=bool)
    for group in groups.items:
        units = group.units.tolist()
        keep[rng.sample(units, min(len(units) - 1, max(1, round(ratio * len(units)))))] = False
    return keep


def rows_of(name: str, only: str | None = None) -> Iterator[dict[str, Any]]:
    """One row for each of the network's cuts (or that with some weights only) and back ends."""
    for number, variant in enumerate(NETWORKS[name].variants):
        if only not in (None, variant):
            continue
        granularity, ratio = CUTS[number % len(CUTS)]
        setting = {"network": name, "variant": variant, "granularity": granularity, "ratio": ratio}
        model = build(name, variant)
        sample = NETWORKS[name].sample
        groups = secateur.analyse(model, sample(torch.Generator().manual_seed(1)), granularity=granularity).groups
        label_keep = groups.label_keep(kept_units(groups, ratio, random.Random(f"{setting}")))
        plan = plan_of(groups, label_keep, {})
        right = prune_graph(groups, label_keep, plan.keep)
        dense = tensors_of(model) | tensors_of(groups.flow.traced.module)
        weights = sharpened(dense, plan.keep)
        judge = Judge(
            with_weights(right, weights, plan.keep), [sample(torch.Generator().manual_seed(s)) for s in SEEDS]
        )
        shown = masked_agrees(model, weights, plan.keep, judge)
        whole = (groups, label_keep, plan.keep)
        yield setting | _planted(Cut(right, dense, plan.keep), weights, judge, whole, f"{setting} graph") | {
            "backend": "graph", "shown": bool(shown)}  # fmt: skip
        yield setting | {"backend": "module"} | _module(model, dense, weights, judge, whole, f"{setting} module")


def _module(model: nn.Module, dense: Any, weights: Any, judge: Judge, whole: Any, seed: str) -> dict[str, Any]:
    """The module back end where it fits; where it does not, its result is itself a mistake that has to be refused."""
    pruned = prune_module(model, whole[2])
    try:
        fits = not judge.differs(with_weights(pruned, weights, whole[2]), SAME)
    except Exception:
        fits = None
    if fits:
        return _planted(Cut(pruned, dense, whole[2]), weights, judge, whole, seed)
    proof = proof_of(pruned, *whole)
    count: Counter[str] = Counter(planted=1)
    _counted(count, "counts" if fits is False else "fails", proof)
    missed = [] if proof != "proven" else ["stale sizes"]
    return {
        "right": None,
        "seconds": 0.0,
        "kinds": {"sizes in the network's own code": _worded(count)},
        "missed": missed,
    }


def _planted(cut: Cut, weights: Any, judge: Judge, whole: Any, seed: str) -> dict[str, Any]:
    start = time.perf_counter()
    right, digest = proof_of(cut.model, *whole), 0
    sharp = with_weights(cut.model, weights, cut.keep)
    kinds: dict[str, Counter[str]] = {}
    missed = []
    for kind, mistake in _mistakes(cut, seed):
        wrong = copy.deepcopy(cut.model)
        mistake.change(wrong, cut.dense)
        verdict = _judged(sharp, mistake, weights, judge)
        proof = proof_of(wrong, *whole) if verdict != "equivalent" else ""
        count = kinds.setdefault(kind, Counter())
        count["planted"] += 1
        _counted(count, verdict, proof)
        digest = zlib.crc32(f"{kind} {mistake.where} {verdict}".encode(), digest)
        if proof == "proven":
            missed.append(f"{kind}: {mistake.where}")
    return {"right": right, "seconds": round(time.perf_counter() - start, 1), "missed": missed,
            "kinds": {kind: _worded(count) for kind, count in sorted(kinds.items())},
            "digest": f"{digest:08x}"}  # fmt: skip


def _worded(count: Counter[str]) -> str:
    """Counts on one line of the record, as :func:`planted.tables.counts` reads them."""
    return ", ".join(f"{k} {count[k]}" for k in OUTCOMES if count[k])


def _counted(count: Counter[str], verdict: str, proof: str) -> None:
    if verdict == "equivalent":
        count["equivalent"] += 1
    elif verdict == "counts":
        count["counting"] += 1
        count["caught"] += proof != "proven"
    else:
        count["fails"] += 1
        count["refused"] += proof != "proven"


def _judged(sharp: nn.Module, mistake: Mistake, weights: Any, judge: Judge) -> str:
    wrong = copy.deepcopy(sharp)
    try:
        mistake.change(wrong, weights)
        return "counts" if judge.differs(wrong) else "equivalent"
    except Exception:
        return "fails"


def _mistakes(cut: Cut, seed: str) -> Iterator[tuple[str, Mistake]]:
    """Different mistakes of all kinds in turn; what one kind draws does not depend on the others."""
    kinds, seen = random.Random(seed).sample(sorted(KINDS), len(KINDS)), set()
    for turn in range(3 * PLANTED):
        kind = kinds[turn % len(kinds)]
        if (mistake := drawn(cut, random.Random(f"{seed} {kind} {turn}"), kind, seen)) is not None:
            seen.add(mistake.where)
            yield kind, mistake
        if len(seen) == PLANTED:
            return


# ------------------------------------------------------------------------------------------------- the record


def child(name: str, only: str | None) -> None:
    warnings.simplefilter("ignore")
    if name == "recurrent":  # oneDNN's LSTM takes an input of a wrong size without a word and writes past its end
        torch.backends.mkldnn.set_flags(False)
    print(json.dumps({"source": str(Path(secateur.__file__).parent.parent)}), flush=True)
    found = rows_of(name, only)
    while True:
        with contextlib.redirect_stderr(io.StringIO()):  # graphs print where they fail, and many are meant to
            row = next(found, None)
        if row is None:
            return
        print(json.dumps(row), flush=True)


def in_a_process(name: str, source: Path) -> Iterator[dict[str, Any]]:
    """The rows as they come, with ``source`` first on the path."""
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
                                "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, __file__, "--child", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = (json.loads(line) for line in process.stdout if line.startswith("{"))
        first = next(found, {})
        if Path(first.get("source", "/")).resolve() != source.resolve():
            raise SystemExit(f"{name}: ran with {first.get('source')}, not with {source}.")
        yield from found
    if process.returncode:
        raise SystemExit(f"{name} ended with status {process.returncode}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"among {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--proof", type=Path, help="src of the checkout whose proof is tried")
    parser.add_argument("--as", dest="column", help="the column's name")
    parser.add_argument("--again", action="store_true", help="also what has rows already")
    parser.add_argument("--tables", action="store_true", help="write the tables alone")
    parser.add_argument("--child", metavar="NETWORK", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.variant)
    from planted.tables import counts, tables  # only here: an older proof's package may lack what the records need
    from records import read, write

    column = options.column or ("old" if options.proof else "new")
    source = (options.proof or Path(__file__).resolve().parents[1] / "src").resolve()
    for name in [] if options.tables else options.networks or list(NETWORKS):
        rows = read("mutants")
        done = sum(r["network"] == name and r["proof"] == column for r in rows)
        if done == 2 * len(NETWORKS[name].variants) and not options.again:
            continue
        rows = [r for r in rows if (r["network"], r["proof"]) != (name, column)]
        for row in in_a_process(name, source):
            rows.append({"proof": column, **row})
            total = sum(map(counts, row["kinds"].values()), Counter())
            print(name, row["variant"], row["backend"], row["right"], _worded(total), row["seconds"], flush=True)
            write("mutants", rows, planted_per_cut=PLANTED, threads=1)
    tables(DOCS, read("mutants"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
