"""What a change costs or saves: seconds and memory of ten things that people wait for, before and after.

    python benchmarks/before_after.py --before ../old/src [--rounds 3] [--name before_after] [--only SUBSTRING]

Each is a process of its own on one thread. In every round every thing is done by both checkouts, one directly after the
other, and who goes first changes from round to round. The figure is the median of the rounds' ratios; memory is the
largest resident size of the process. Writes results/NAME.json after every round, and a table in docs/design.md where
its name stands (before_after: the house of issue 14; recorder_before_after: the recorder and the proof of issue 15).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from statistics import median
from typing import Any

from records import into_docs, table, versions

HERE = Path(__file__).resolve().parent.parent

CUT = """
    import torch, secateur
    torch.manual_seed(0)
    net, x = secateur.models.create("torchvision:{name}").eval(), torch.randn(2, 3, 224, 224)
    secateur.prune(net, x, ratio=0.5, only={only})
"""
RECONSTRUCTION = """
    import torch, secateur
    torch.manual_seed(0)
    net, x = secateur.models.create("resnet56").eval(), torch.randn(128, 3, 32, 32)
    if "select" in secateur.__all__:
        secateur.select(net, x, ratio=0.5)
    else:
        secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction", data=x)
"""
SAVED = """
    import tempfile, torch, secateur
    torch.manual_seed(0)
    net, x = secateur.models.create("torchvision:resnet50").eval(), torch.randn(2, 3, 224, 224)
    small = secateur.prune(net, x, ratio=0.5, verify=False)
    for _ in range(3):
        secateur.load(small.save(tempfile.mkdtemp(), graph=True))
"""
TEN_ROUNDS = """
    from pathlib import Path
    from secateur.__main__ import main
    Path("ten.yaml").write_text(
        "name: ten-rounds\\ndescription: Ten rounds.\\nseed: 0\\nmodel: {name: resnet_digits}\\ndata: {name: digits}\\n"
        "steps:\\n- adapt: {epochs: 1}\\n- iterate:\\n    rounds: 10\\n    schedule: linear\\n    steps:\\n"
        "    - prune: {criterion: l2, ratio: 0.5}\\n    - finetune: {epochs: 1}\\n")
    main(["run", "ten.yaml", "--out", "out", "--quiet"])
"""
SIX_RUNS = """
    from secateur.__main__ import main
    main(["compare", "transfer-channel", "slimming", "lasso-channel", "weight-pruning", "purify", "energy-aware",
          "--epochs", "1", "--model", "resnet_digits", "--jobs", "1", "--out", "out", "--quiet"])
"""
THINGS = {
    "import secateur": "import secateur",
    "secateur --help": "from secateur.__main__ import main; main(['--help'])",
    "secateur prune --help": "from secateur.__main__ import main; main(['prune', '--help'])",
    "cut of ResNet-50, half of the channels": CUT.format(name="resnet50", only=None),
    "cut of ViT-B/16, half of the MLPs": CUT.format(name="vit_b_16", only=["*.mlp.0"]),
    "choice by reconstruction, ResNet-56, 128 images": RECONSTRUCTION,
    "ResNet-50 saved with its graph and loaded, three times": SAVED,
    "run of transfer-channel on digits": "from secateur.__main__ import main; "
    "main(['run', 'transfer-channel', '--out', 'out', '--quiet'])",
    "iterate, ten rounds of a cut and an epoch": TEN_ROUNDS,
    "compare, six recipes of an epoch each": SIX_RUNS,
}


WATCH = """
import json, os, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
seconds = time.perf_counter() - start
sys.exit(done.stderr[-2000:]) if done.returncode else None
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""
"""A process in between that imports next to nothing: what it starts begins as its copy, and counts as that large."""


def measure(src: Path, code: str) -> list[float]:
    """Seconds of one process and its largest resident size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WATCH, textwrap.dedent(code)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{src}: {done.stderr}")
    seconds, size = json.loads(done.stdout)
    return [seconds, size]


def rows(found: dict[str, list[dict[str, list[float]]]]) -> list[list[str]]:
    lines = []
    for name, rounds in found.items():
        before, after = ([r[side] for r in rounds] for side in ("before", "after"))
        ratios = sorted(a[0] / b[0] for b, a in zip(before, after, strict=True))
        sizes = median(a[1] / b[1] for b, a in zip(before, after, strict=True))
        lines.append([name, f"{median(b[0] for b in before):.2f} s", f"{median(a[0] for a in after):.2f} s",
                      f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})",
                      f"{median(b[1] for b in before):,.0f} MB", f"{sizes:.2f}"])  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="src of the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="before_after")
    parser.add_argument("--only", default="", help="things whose name contains this")
    given = parser.parse_args()
    things = {name: code for name, code in THINGS.items() if given.only in name}
    sides: dict[str, Path] = {"before": given.before.resolve(), "after": HERE / "src"}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=given.before, capture_output=True, text=True)
    from secateur.timing import machine

    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in things}
    for number in range(given.rounds):
        for name, code in things.items():
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            found[name].append({side: measure(sides[side], code) for side in order})
            print(name, found[name][-1], flush=True)
        facts: dict[str, Any] = {"before": commit.stdout.strip(), "rounds": number + 1, "threads": 1}
        record = {"machine": machine().to_json(), "versions": versions(), **facts, "things": found}
        (HERE / f"benchmarks/results/{given.name}.json").write_text(
            json.dumps(record, indent=1) + "\n", encoding="utf-8"
        )
    head = ("", f"before ({commit.stdout.strip()})", "now", "ratio of seconds (least–most)", "memory before", "ratio")
    into_docs(HERE / "docs/design.md", given.name.replace("_", "-"), table(head, rows(found)))


if __name__ == "__main__":
    main()
