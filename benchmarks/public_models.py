"""Public networks of many libraries, from their configurations with random weights, cut to half.

Run: python benchmarks/public_models.py [--only SUBSTRING] [--tool secateur|torch_pruning] [--again]

Each network runs in a process of its own, one thread. Widths and depths are small (a few layers), shapes of the code
are those of the library. Every network is cut whole and within, with the library's initial weights and with weights of
standard deviation 0.2. Asked of the result: is it proven exact in double precision; is it still of its class; does it
take another size, and is it right there (held up to the same plan, cut and proven at that size); does a training step
reach the same share of its parameters as of the dense network's; the library's own save and load; ``generate``.
Rows are written as they come. Writes results/public_models.json and docs/alive.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from public_networks import NETWORKS
from records import into_docs, read, table, write
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.models._torchvision import import_torchvision

DOCS = Path(__file__).resolve().parents[1] / "docs/alive.md"
LIMIT_S = 600
RATIO = 0.5
SETTINGS = [(granularity, std) for std in (None, 0.2) for granularity in ("whole", "within")]

# ------------------------------------------------------------------------------------------------------ outcomes


def strengthened(model: nn.Module, std: float | None) -> nn.Module:
    """Weights of a standard deviation, and batch-norm statistics that are not all alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters() if std is not None else ():
            if parameter.ndim > 1:
                parameter.normal_(0, std, generator=generator)
    return model.eval()


def called(model: nn.Module, inputs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    args, kwargs = (
        ((), inputs) if isinstance(inputs, Mapping) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    )
    found = model(*args, **kwargs)
    held = vars(found) if hasattr(found, "__dataclass_fields__") else found
    return [t for t in pytree.tree_leaves(dict(held) if isinstance(held, Mapping) else held) if isinstance(t, Tensor)]


def attempt(check: Callable[[], Any]) -> str:
    """``yes``, or why not."""
    try:
        found = check()
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {words[0][:200]}"
    return "yes" if found is None or found is True else str(found)


def another_size(model: nn.Module, pruned: Any, other: Any) -> str:
    """Whether the result is right at another size: as the same plan gives, cut and proven there."""
    import secateur

    if other is None or attempt(lambda: called(model, other) and None) != "yes":
        return "the dense network does not"
    at = secateur.apply(model, pruned.plan, other)
    with torch.no_grad():
        try:
            ours, theirs = (called(m.double(), _double(other)) for m in (pruned.model, at.model))
            exact = 1e-6
        except RuntimeError as error:  # products of several matrices are not there in double precision
            if "Double" not in str(error):
                raise
            ours, theirs = (called(m.float(), other) for m in (pruned.model, at.model))
            exact = 1e-4
        finally:
            pruned.model.float()
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in zip(ours, theirs, strict=True))
    return "yes" if worst < exact else f"differs by {worst:.1e}"


def _double(inputs: Any) -> Any:
    return pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)


def trained(model: nn.Module, inputs: Any) -> float:
    """Share of the parameters that a training step reaches."""
    model.zero_grad()
    model.train()
    loss = sum(t.float().pow(2).mean() for t in called(model, inputs) if t.requires_grad)
    assert isinstance(loss, Tensor)
    loss.backward()
    model.eval()
    with_gradient = [p.grad is not None for p in model.parameters() if p.requires_grad]
    return sum(with_gradient) / max(1, len(with_gradient))


def saved(model: nn.Module, inputs: Any) -> Any:
    """The library's own save and load, and the same results."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)  # type: ignore[operator]
        again = type(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
        pairs = zip(called(again, inputs), called(model, inputs), strict=True)
        worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs)
    return True if worst < 1e-5 else f"differs by {worst:.1e}"


def generated(model: nn.Module, inputs: Any) -> Any:
    ids = {k: v for k, v in inputs.items() if not k.startswith("decoder")}
    return model.generate(**ids, max_new_tokens=4, do_sample=False).shape[0] > 0  # type: ignore[operator]


def run_secateur(name: str) -> list[dict[str, Any]]:
    import secateur

    rows = []
    for granularity, std in SETTINGS:
        torch.manual_seed(0)
        model, inputs, other = NETWORKS[name]()
        strengthened(model, std)
        row: dict[str, Any] = {"granularity": granularity, "std": std}
        start = time.perf_counter()
        try:
            pruned = secateur.prune(model, inputs, ratio=RATIO, granularity=granularity)
        except Exception as error:
            words = str(error).strip().splitlines() or [""]
            rows.append({**row, "outcome": "refused" if isinstance(error, secateur.SecateurError) else "crashed",
                         "why": f"{type(error).__name__}: {words[0][:300]}"})  # fmt: skip
            continue
        row |= {"outcome": "cut", "seconds": time.perf_counter() - start, "backend": pruned.backend,
                "islands": len(pruned.plan.islands), "left": pruned.after.params / pruned.before.params,
                "notes": list(pruned.notes), "lost": list(pruned.lost),
                "pinned": [str(u) for u in pruned.unsupported][:8]}  # fmt: skip
        if pruned.verification is not None:
            row |= {"difference": pruned.verification.max_relative_error, "proven": pruned.verification.proven}
        row["class"] = type(pruned.model) is type(model)
        row["other size"] = attempt(lambda: another_size(model, pruned, other))  # noqa: B023
        dense = attempt(lambda: f"{trained(model, inputs):.4f}")  # noqa: B023
        row["trains"] = attempt(lambda: f"{trained(pruned.model, inputs):.4f}"), dense  # noqa: B023
        if hasattr(model, "save_pretrained"):
            row["saves"] = attempt(lambda: saved(pruned.model, inputs))  # noqa: B023
        if getattr(model, "can_generate", bool)() and isinstance(inputs, Mapping):
            row["generates"] = attempt(lambda: generated(pruned.model, inputs))  # noqa: B023
        rows.append(row)
    return rows


def run_torch_pruning(name: str) -> list[dict[str, Any]]:
    """Without recipes per network: the last layer is ignored, nothing else is told."""
    import torch_pruning

    torch.manual_seed(0)
    model, inputs, _ = NETWORKS[name]()
    strengthened(model, None)
    dense, want = sum(p.numel() for p in model.parameters()), [t.shape for t in called(model, inputs)]
    heads = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    try:
        pruner = torch_pruning.pruner.MetaPruner(
            model, inputs, torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=RATIO,
            ignored_layers=heads[-1:])  # fmt: skip
        pruner.step()
        shapes = [t.shape for t in called(model, inputs)]
    except Exception as error:
        return [{"outcome": "error", "why": f"{type(error).__name__}: {str(error)[:200]}"}]
    left = sum(p.numel() for p in model.parameters()) / dense
    return [
        {
            "outcome": "runs" if shapes == want and left < 1 else "nothing cut" if left == 1 else "other shapes",
            "left": left,
        }
    ]


RUNS = {"secateur": run_secateur, "torch_pruning": run_torch_pruning}


def in_a_process(tool: str, name: str) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return [{"outcome": "crashed", "why": f"over {LIMIT_S} s"}]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    if done.returncode or not lines:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["killed"])[-1]
        return [{"outcome": "missing" if "No module" in last else "crashed", "why": last[:300]}]
    return json.loads(lines[-1])


def one(tool: str, name: str) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    print(json.dumps(RUNS[tool](name), default=str))


# -------------------------------------------------------------------------------------------------------- tables


def best(several: list[dict[str, Any]], key: str) -> str:
    found = dict.fromkeys(str(r.get(key, "–")) for r in several)
    return ", ".join("yes" if f == "yes" else f[:60] for f in found)


def render(rows: list[dict[str, Any]]) -> str:
    done = [r for r in rows if "secateur" in r and not any(x["outcome"] == "missing" for x in r["secateur"])]
    results = [x for r in done for x in r["secateur"]]
    cut = [x for x in results if x["outcome"] == "cut"]
    module = [x for x in cut if x["backend"] == "module"]
    fits = [x for x in module if not x["other size"].startswith("the dense")]
    right = sum(x["other size"] == "yes" for x in fits)
    peers = [r["torch_pruning"][0] for r in rows if "torch_pruning" in r]
    beside = f"{sum(p['outcome'] == 'runs' for p in peers)} of {len(peers)}"
    lines = [
        f"- networks: {len(done)}, each cut {len(SETTINGS)} times: whole and within, weights as initialised and of "
        f"standard deviation 0.2; results: {len(results)}",
        f"- cut and exact in double precision: {len(cut)} of {len(results)}",
        f"- still of their class: {len(module)} of {len(cut)}",
        f"- of these, right at another size where the dense network takes one: {right} of {len(fits)}",
    ]
    saving, making = ([x for x in cut if key in x] for key in ("saves", "generates"))
    by_itself, said = sum(x["saves"] == "yes" for x in saving), sum(_saves(x) == "said why not" for x in saving)
    lines += [
        f"- of {len(saving)} of libraries that save and load by themselves: {by_itself} are saved and loaded so, of "
        f"{said} a note says why not",
        f"- of {len(making)} that can, {sum(x['generates'] == 'yes' for x in making)} `generate`",
    ]
    lines += [f"- Torch-Pruning (once each, not verified): runs with the same shapes {beside}"] * bool(peers)
    head = ["network", "cut", "back end", "left", "another size", "trains", "saves", "generates", "Torch-Pruning"]
    return "\n".join(lines) + "\n\n" + table(head, map(_row, rows))


def _row(row: dict[str, Any]) -> list[Any]:
    several = row.get("secateur", [])
    cut = [x for x in several if x["outcome"] == "cut"]
    left = sorted(x["left"] for x in cut)
    trains = ["yes" if x["trains"][0] == x["trains"][1] else f"{x['trains'][0][:40]}" for x in cut]
    peer = row.get("torch_pruning", [{}])[0]
    refused = next((x["why"] for x in several if x["outcome"] != "cut"), "")
    return [row["network"], f"{len(cut)} of {len(several)}" + (f": {refused[:80]}" if refused else ""),
            ", ".join(dict.fromkeys(x["backend"] for x in cut)), f"{left[0]:.2f}–{left[-1]:.2f}" if left else "–",
            best(cut, "other size"), ", ".join(dict.fromkeys(trains)), ", ".join(dict.fromkeys(map(_saves, cut))),
            best(cut, "generates"),
            peer.get("outcome", "–")]  # fmt: skip


def _saves(row: dict[str, Any]) -> str:
    """``said`` where a note says that the library's own files cannot describe the result."""
    said = any(note.startswith(("its configuration does not describe", "the library's own save_pretrained"))
               for note in row["notes"])  # fmt: skip
    return "said why not" if said and row.get("saves") != "yes" else str(row.get("saves", "–"))[:60]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--tool", choices=RUNS, action="append")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    import_torchvision()
    if given.one:
        one(*given.one)
        return
    rows = {r["network"]: r for r in read("public_models")}
    todo = [(tool, n) for n in NETWORKS if given.only in n for tool in given.tool or RUNS
            if given.again or tool not in rows.get(n, {})]  # fmt: skip
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = {pool.submit(in_a_process, tool, name): (tool, name) for tool, name in todo}
        for job in as_completed(jobs):
            tool, name = jobs[job]
            rows.setdefault(name, {"network": name})[tool] = job.result()
            print(
                name, tool, [(x["outcome"], x.get("backend"), x.get("why", "")[:90]) for x in job.result()], flush=True
            )
            ordered = [rows[n] for n in NETWORKS if n in rows]
            write("public_models", ordered)
    if DOCS.exists():
        into_docs(DOCS, "public-models", render([rows[n] for n in NETWORKS if n in rows]))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    main()
