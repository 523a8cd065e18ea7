"""Runs of three tasks are killed at random moments and gone on with; their numbers end as if nothing had happened.

    python benchmarks/task_kills.py                 about ten minutes on one core; goes on where it was stopped

Toy sizes. Detection (YOLOv3-tiny, digits on a canvas) and segmentation (U-Net, the same with masks) by recipe, and a
task with a user's own shuffled DataLoader (a worker process), handed over from Python. Every run is first done whole,
then again with SIGKILLs at seeded random moments, each followed by a resume; compared are all metrics, results, plans
and digests of weights (`secateur.recipe.sameness`), but for what a clock says. Writes results/task_kills.json.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from records import read, write
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.core.files import write_text
from secateur.recipe.sameness import differences, numbers

KILLS = 7
"""Of each run; one that ends before it was killed so often is begun again, with other moments. They are drawn in
seconds from the start of a process, so that most fall into the first step: see ``during`` in the record."""

STEPS = """
- adapt: {{{train}}}
- prune: {{criterion: taylor, ratio: 0.5, calibration: 32}}
- recover: {{images: 64}}
- finetune: {{{train}, keep: best, distill: {{weight: 0.3}}}}
"""
TRAIN = "epochs: 3, batch_size: 8, optimizer: adamw, lr: 0.001, average: 0.9"


def sines(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sin().sum(1, keepdim=True))


def own(folder: Path, recipe: Path) -> None:
    """A network and loaders of the user's."""
    train = DataLoader(sines(256, 0), 16, shuffle=True, num_workers=1)
    test = DataLoader(sines(64, 1), 32)
    mae = secateur.Metric(lambda output, target: (output - target).abs().mean(), better="lower")
    task = secateur.Task(train=train, validation=test, test=test, loss=nn.functional.mse_loss, metrics={"mae": mae})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    _go(folder, recipe, model=model, task=task)


def built_in(folder: Path, recipe: Path) -> None:
    """Everything by name."""
    _go(folder, recipe)


def _go(folder: Path, recipe: Path, **given: Any) -> None:
    if (folder / "recipe.yaml").exists():
        secateur.resume(folder, **given)
    else:
        secateur.run(recipe, folder, **given)


RUNS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "detection": (built_in, "task: detection\nmodel: {name: yolov3_tiny}\ndata: {name: digits, limit: 24}\n"),
    "own loaders": (own, "model: {name: given}\n"),
    "segmentation": (
        built_in,
        "task: segmentation\nmodel: {name: unet, options: {width: 8}}\ndata: {name: digits, limit: 24}\n",
    ),
}


def start(name: str, folder: Path, recipe: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", name, str(folder), str(recipe)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


def done(folder: Path) -> bool:
    return (folder / "results.json").is_file()


def killed(name: str, folder: Path, recipe: Path, seconds: float, draw: random.Random) -> list[str]:
    """Kills the run again and again, at moments up to the time that a whole one takes; returns how far it was."""
    moments: list[str] = []
    while not done(folder):
        process = start(name, folder, recipe)
        if len(moments) < KILLS:
            try:
                process.wait(draw.uniform(2.0, 2.0 + seconds / 3))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                steps = sorted(p.name for p in folder.glob("steps/*")) or ["before the first step"]
                moments.append(steps[-1])
                continue
        if process.wait():
            raise RuntimeError(f"{name} failed")
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        torch.set_num_threads(1)
        name, folder, recipe = given.child
        return RUNS[name][0](Path(folder), Path(recipe))
    rows = read("task_kills")
    for name, (_, head) in RUNS.items():
        if any(row["run"] == name for row in rows):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            write_text(place / "kills.yaml", f"name: kills\n{head}steps:{STEPS.format(train=TRAIN)}")
            began = time.monotonic()
            if start(name, place / "whole", place / "kills.yaml").wait():
                raise RuntimeError(f"{name} failed")
            seconds = time.monotonic() - began
            moments: list[str] = []
            for attempt in range(5):
                folder = place / f"killed-{attempt}"
                moments += killed(name, folder, place / "kills.yaml", seconds, random.Random(f"{name} {attempt}"))
                found = differences(numbers(place / "whole"), numbers(folder))
                if found or len(moments) >= KILLS:
                    break
        rows.append({"run": name, "kills": len(moments), "during": moments, "differences": found})
        write("task_kills", rows)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
