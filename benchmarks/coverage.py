"""Every torchvision network and one network of each timm family, cut to half by Secateur and by Torch-Pruning.

Run: python benchmarks/coverage.py [--only SUBSTRING] [--tool secateur|torch_pruning] [--again]

Each tool runs in a process of its own, one thread, with limits on time and memory. Rows are written as they
come, so the benchmark can be stopped and started again. Writes results/coverage.json and docs/coverage.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any

import torch
from networks import randomised
from records import into_docs, read, table, write
from torch import Tensor, nn

from secateur.cost.memory import peak_memory
from secateur.models._torchvision import import_torchvision

DOCS = Path(__file__).resolve().parents[1] / "docs/coverage.md"
LIMIT_S, LIMIT_BYTES = 300, 12 << 30
RATIO = 0.5
LARGE = 20 << 20  # below it, what Python and the tracing hold outweighs the network
ENOUGH = 0.6  # share of parameters left that still counts as "cut to half"


# ------------------------------------------------------------------------------------------------- networks


def names() -> list[str]:
    """torchvision's classification, segmentation and detection networks; timm's smallest of each model file."""
    torchvision = import_torchvision()
    kinds = ("torchvision.models", "torchvision.models.segmentation", "torchvision.models.detection")
    from torchvision.models import list_models

    modules = [sys.modules.get(k) or __import__(k, fromlist=["x"]) for k in kinds]
    assert torchvision is not None
    found = [f"torchvision:{n}" for m in modules for n in list_models(module=m) if not n.startswith("quantized")]
    return found + [f"timm:{n}" for n in smallest_of_each_family().values()]


def smallest_of_each_family() -> dict[str, str]:
    """timm's networks by model file; the one with the fewest parameters (counted without making weights)."""
    import timm
    from timm.models import _registry

    cache = Path(__file__).parent / "results/timm_families.json"
    if cache.exists():
        return json.loads(cache.read_text())
    best: dict[str, tuple[int, str]] = {}
    for name in timm.list_models():
        family = _registry._model_to_module[name]
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in timm.create_model(name).parameters())
        except Exception:
            continue  # cannot be made without weights; another one of the family stands for it
        best[family] = min(best.get(family, (size, name)), (size, name))
    result = {family: name for family, (_, name) in sorted(best.items())}
    cache.parent.mkdir(exist_ok=True)
    cache.write_text(json.dumps(result, indent=1) + "\n")
    return result


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The network with random weights, in eval mode, and an input of its own size."""
    torch.manual_seed(0)
    torchvision = import_torchvision()
    library, _, which = name.partition(":")
    if library == "timm":
        import timm

        model = timm.create_model(which, pretrained=False)
        return randomised(model), torch.randn(1, *model.default_cfg.get("input_size", (3, 224, 224)))
    options: dict[str, Any] = {"weights": None}
    if which in ("googlenet", "inception_v3"):
        options |= {"init_weights": False} | ({"aux_logits": False} if which == "googlenet" else {})
    try:
        model = torchvision.models.get_model(which, **options, weights_backbone=None)
    except TypeError:
        model = torchvision.models.get_model(which, **options)
    if which in torchvision.models.list_models(module=torchvision.models.detection):
        model = model.backbone  # with its neck; what finds and filters boxes depends on data and does not trace
    size = {"inception_v3": 299, "ssd300_vgg16": 300}.get(which, 224)
    return randomised(model), torch.randn(1, 3, size, size)


# ------------------------------------------------------------------------------------------------- outcomes


def run_secateur(model: nn.Module, x: Tensor) -> dict[str, Any]:
    import secateur

    pruned = secateur.prune(model, x, ratio=RATIO)
    assert pruned.verification is not None
    left = pruned.after.params / pruned.before.params
    pinned = [f"{u.operator} in {u.module} ({u.pinned_params:,} parameters)" for u in pruned.unsupported]
    return {"outcome": "exact" if left <= ENOUGH else "exact, less cut", "backend": pruned.backend, "params_left": left,
            "macs_left": pruned.after.macs / max(1, pruned.before.macs),
            "difference": pruned.verification.max_relative_error, "pinned": pinned[:20]}  # fmt: skip


def run_torch_pruning(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Without recipes per model: the head is ignored, nothing else is told. Outputs are compared in shape."""
    import torch_pruning

    dense, want = sum(p.numel() for p in model.parameters()), _shapes(model(x))
    heads = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    classes = want[0][-1] if want and len(want[0]) == 2 else None
    ignored = [m for m in heads if getattr(m, "out_features", None) == classes] or heads[-1:]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.MetaPruner(model, x, importance, pruning_ratio=RATIO, ignored_layers=ignored)
    pruner.step()
    left = sum(p.numel() for p in model.parameters()) / dense
    if _shapes(model(x)) != want:
        return {"outcome": "outputs of another shape", "params_left": left}
    return {"outcome": "runs" if left <= ENOUGH else "runs, less cut", "params_left": left}


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


RUNS = {"secateur": run_secateur, "torch_pruning": run_torch_pruning}


def one(tool: str, name: str) -> None:
    """In a process of its own: prints one line of JSON."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    row: dict[str, Any] = {}
    RUNS[tool](
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)), torch.randn(1, 3, 8, 8)
    )  # warms up
    model, x = build(name)
    row["params"] = sum(p.numel() for p in model.parameters())
    row["model_bytes"] = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    row["forward_bytes"] = peak_memory(model, x) - row["model_bytes"]  # activations of one image
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    held = peak_rss()
    start = time.perf_counter()
    try:
        row |= RUNS[tool](model, x)
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        row |= {"outcome": "error", "error": f"{type(error).__name__}: {words[0][:400]}"}
    row["seconds"] = time.perf_counter() - start
    row["extra_bytes"] = peak_rss() - held
    print(json.dumps(row))


def peak_rss() -> int:
    """Bytes of memory that the process held at most since the peak was cleared (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def in_a_process(tool: str, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "error", "error": f"over {LIMIT_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["killed"])[-1]
        return {"outcome": "error", "error": f"process ended with {done.returncode}: {last[:300]}"}
    return json.loads(lines[-1])


# ---------------------------------------------------------------------------------------------------- tables


def render(rows: list[dict[str, Any]]) -> str:
    parts = []
    for library in ("torchvision", "timm"):
        of = [r for r in rows if r["network"].startswith(library)]
        for tool in RUNS:
            good = sum(r.get(tool, {}).get("outcome") in ("exact", "runs") for r in of)
            done = sum(tool in r for r in of)
            left = f" (measured so far, of {len(of)})" if done < len(of) else ""
            parts.append(f"- {library}, {tool.replace('_', '-')}: {good} of {done}{left} cut to half")
        parts += _speed_and_memory(of)
    head = ["network", "parameters, M", "Secateur", "left", "difference", "s", "Torch-Pruning", "left", "s"]
    return "\n".join(parts) + "\n\n" + table(head, map(_row, rows))


def _speed_and_memory(rows: list[dict[str, Any]]) -> list[str]:
    """Medians where both tools work; how much memory the cut takes beyond the network itself."""
    both = [r for r in rows if all(r.get(t, {}).get("outcome") in ("exact", "runs") for t in RUNS)]
    ours, theirs = ([r[t]["seconds"] for r in both] for t in RUNS)
    found = []
    if both:
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        found.append(f"    - both work on {len(both)}: median {median(ours):.2f} s and {median(theirs):.2f} s, "
                     f"median of the ratios {ratio:.2f}")  # fmt: skip
    measured = [r["secateur"] for r in rows if "model_bytes" in r.get("secateur", {})]
    if measured:
        large = [r for r in measured if r["model_bytes"] >= LARGE]
        plain = [r["extra_bytes"] / r["model_bytes"] for r in large]
        beyond = [r["extra_bytes"] / (r["model_bytes"] + r["forward_bytes"]) for r in large]
        small = [r["seconds"] for r in measured if r["params"] < 100e6]
        found += ["    - Secateur's peak memory over what the process held before, networks of "
                  f"{LARGE >> 20} MiB and more: median {median(plain):.2f} × the network, "
                  f"{sum(p <= 2.5 for p in plain)} of {len(plain)} within 2.5 ×, at most {max(plain):.2f} ×; "
                  f"at most {max(beyond):.2f} × the network and one image's activations",
                  f"    - longest of a network under 100 M parameters: {max(small):.0f} s"]  # fmt: skip
    return found


def _row(row: dict[str, Any]) -> list[str]:
    ours, theirs = row.get("secateur", {}), row.get("torch_pruning", {})
    cells = [row["network"], f"{ours.get('params', theirs.get('params', 0)) / 1e6:.1f}"]
    back = f" ({ours['backend']})" if "backend" in ours else ""
    cells += [_words(ours) + back, _percent(ours), f"{ours['difference']:.0e}" if "difference" in ours else "–"]
    return [*cells, _seconds(ours), _words(theirs), _percent(theirs), _seconds(theirs)]


def _words(row: dict[str, Any]) -> str:
    text = row.get("error") or row.get("outcome") or "–"
    return text.replace("|", "/").replace("\n", " ")[:110]


def _percent(row: dict[str, Any]) -> str:
    return f"{row['params_left']:.0%}" if "params_left" in row else "–"


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.1f}" if "seconds" in row else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--tool", choices=RUNS, action="append", help="only this tool")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--failed", action="store_true", help="measure again what did not come out exact")
    options = parser.parse_args()
    rows = {r["network"]: r for r in read("coverage")}
    wanted = names()
    todo = [
        (n, t) for n in wanted for t in options.tool or RUNS if options.only in n and _due(rows.get(n, {}), t, options)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(in_a_process, tool, name): (name, tool) for name, tool in todo}
        for done in as_completed(waiting):
            name, tool = waiting[done]
            found = rows.setdefault(name, {"network": name})[tool] = done.result()
            print(f"{name:50s} {tool:14s} {_words(found)} {_percent(found)} {_seconds(found)}", flush=True)
            write("coverage", [rows[n] for n in wanted if n in rows], ratio=RATIO, threads=1, jobs=options.jobs)
    if DOCS.exists():
        into_docs(DOCS, "coverage", render([rows[n] for n in wanted if n in rows]))


def _due(row: dict[str, Any], tool: str, options: argparse.Namespace) -> bool:
    failed = options.failed and row.get(tool, {}).get("outcome") not in ("exact", "runs")
    return tool not in row or options.again or failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3])
    else:
        main()
