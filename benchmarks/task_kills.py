"""Runs of three tasks are killed in every step and gone on with; their numbers end as if nothing had happened.

    python benchmarks/task_kills.py                 some minutes on one core; goes on where it was stopped

Toy sizes. Detection (YOLOv3-tiny, digits on a canvas) and segmentation (U-Net, the same with masks) by recipe, and a
task with a user's own shuffled DataLoader (a worker process), handed over from Python. Every run is first done whole,
then again with SIGKILLs in every step and after every epoch (and a seeded random moment later), each followed by a
resume; compared are all metrics, results, plans and digests of weights (`secateur.recipe.sameness`), but for what a
clock says. Writes results/task_kills.json.
"""

from __future__ import annotations

import argparse
import json
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

MOMENTS = (("01-adapt", 1), ("01-adapt", 2), ("02-prune", 0), ("03-recover", 0), ("04-finetune", 0), ("04-finetune", 1),
           ("04-finetune", 2))  # fmt: skip
"""When a run is killed: a step that has begun, and so many of its epochs noted; seven of each run."""

LATER = 0.25
"""Seconds after that moment at most, drawn from the seed: so that kills fall into the middle of what follows."""

SEED = 0
SAMPLES = {"detection": 24, "own loaders": 256, "segmentation": 24}
"""Training samples: toy."""

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


def reached(folder: Path, step: str, epochs: int) -> bool:
    """Whether a run has begun a step and noted so many of its epochs."""
    if not (folder / "steps" / step).is_dir() and not (epochs == 0 and step in done_steps(folder)):
        return False
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return sum(line["step"] == step and line.get("epoch") is not None for line in lines) >= epochs


def done_steps(folder: Path) -> list[str]:
    file = folder / "state.json"
    return list(json.loads(file.read_text())["done"]) if file.exists() else []


def killed(name: str, folder: Path, recipe: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Kills a run at every moment, and goes on with it each time; returns what it had done when it was killed."""
    found = []
    for step, epochs in MOMENTS:
        process, later = start(name, folder, recipe), draw.uniform(0, LATER)
        while process.poll() is None and not reached(folder, step, epochs):
            time.sleep(0.005)
        time.sleep(later)
        alive = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL) if alive else None
        process.wait()
        if not alive and process.returncode:
            raise RuntimeError(f"{name} failed")
        wanted = {"step": step, "epochs": epochs, "seconds_later": round(later, 3)}
        found.append({**wanted, "killed": alive, "done": done_steps(folder)})
    if start(name, folder, recipe).wait():
        raise RuntimeError(f"{name} failed")
    return found


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
            if start(name, place / "whole", place / "kills.yaml").wait():
                raise RuntimeError(f"{name} failed")
            moments = killed(name, place / "killed", place / "kills.yaml", random.Random(f"{name} {SEED}"))
            found = differences(numbers(place / "whole"), numbers(place / "killed"))
        kills = sum(moment["killed"] for moment in moments)
        rows.append({"run": name, "kills": kills, "moments": moments, "differences": found})
        write(
            "task_kills",
            rows,
            seed=SEED,
            child_threads=1,
            samples={"detection": 24, "own loaders": 256, "segmentation": 24},
        )
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
