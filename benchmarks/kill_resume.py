"""Kills runs at random moments and compares what they end with: `python benchmarks/kill_resume.py`.

The recipe transfer-channel is run once without a stop. Then it is run again and again; each process is killed
with SIGKILL at a random moment and gone on with by `secateur resume`, until as many kills as asked for have
been made. Every number of every run (metrics, results, digests of the weights; times excepted) has to be the
one of the run without a stop.

Everything is noted after each run, so the benchmark itself can be stopped and started again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from secateur.measure import machine
from secateur.recipe.files import read_json, write_json
from secateur.recipe.sameness import differences, numbers

RESULT = Path(__file__).parent / "results" / "kill_resume.json"
AT_MOST = 5  # kills of one run: then it may end


def main() -> None:
    options = parse()
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as scratch:
        reference, seconds = uninterrupted(Path(scratch) / "reference", environment)
        digest = json.dumps(reference, sort_keys=True)
        note = start(options, digest)
        while sum(len(run["kills"]) for run in note["runs"]) < options.kills:
            left = options.kills - sum(len(run["kills"]) for run in note["runs"])
            number = len(note["runs"])
            out = Path(scratch) / f"run-{number}"
            began = time.monotonic()
            kills = killed(out, random.Random(f"{options.seed}/{number}"), seconds, min(AT_MOST, left), environment)
            found = differences(numbers(out), reference)
            note["runs"].append({"number": number, "kills": kills, "differences": found})
            write_json(options.out, note)
            shutil.rmtree(out)
            if not kills:  # the machine is less busy now: look for moments within a run, not behind its end
                seconds = min(seconds, time.monotonic() - began)
    show(note)
    sys.exit(any(run["differences"] for run in note["runs"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills in all (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the same in every run (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is noted")
    return parser.parse_args()


def start(options: argparse.Namespace, digest: str) -> dict:
    """The note of an earlier, stopped benchmark with the same settings, or a new one."""
    settings = {"kills": options.kills, "seed": options.seed, "threads": options.threads}
    if options.out.exists():
        note = read_json(options.out)
        if note["settings"] == settings and note["reference"] == hash_of(digest):
            return note
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return {
        "claim": "a run killed at any moment goes on and ends with the same numbers",
        "settings": settings,
        "machine": machine().to_json(),
        "reference": hash_of(digest),
        "runs": [],
    }


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def command(out: Path) -> list[str]:
    """Starts the run, or goes on with it once its folder is there."""
    # Little time for timing: it takes half of the run otherwise, and half of the kills.
    start = ["run", "transfer-channel", "--set", "steps.measure.budget_s=1", "--out", str(out)]
    words = ["resume", str(out)] if out.exists() else start
    return [sys.executable, "-m", "secateur", *words, "--quiet"]


def uninterrupted(out: Path, environment: dict[str, str]) -> tuple[dict, float]:
    began = time.monotonic()
    subprocess.run(command(out), env=environment, check=True, stdout=subprocess.DEVNULL)
    return numbers(out), time.monotonic() - began


def killed(out: Path, chance: random.Random, seconds: float, at_most: int, environment: dict[str, str]) -> list[dict]:
    """Runs to the end with up to ``at_most`` kills; returns when and where they fell."""
    kills: list[dict] = []
    while True:
        process = subprocess.Popen(command(out), env=environment, stdout=subprocess.DEVNULL)
        try:
            wait = chance.uniform(0, seconds) if len(kills) < at_most else None
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills.append({"after_s": round(wait or 0, 3), "during": where(out)})
            continue
        if code != 0:
            raise SystemExit(f"{command(out)} ended with status {code}")
        return kills


def where(out: Path) -> str:
    """The step that was going on."""
    if not out.exists():
        return "start-up"
    done = read_json(out / "state.json")["done"]
    steps = sorted(path.name for path in (out / "steps").iterdir()) if (out / "steps").exists() else []
    begun = [name for name in steps if name not in done]
    return begun[0] if begun else f"after {done[-1]}" if done else "start-up"


def show(note: dict) -> None:
    table = Table("Run", "Kills", "Where they fell", "Numbers that differ")
    for run in note["runs"]:
        fell = ", ".join(kill["during"] for kill in run["kills"])
        table.add_row(str(run["number"]), str(len(run["kills"])), fell, str(len(run["differences"])))
    Console().print(table)
    kills = sum(len(run["kills"]) for run in note["runs"])
    wrong = sum(bool(run["differences"]) for run in note["runs"])
    print(f"{kills} kills in {len(note['runs'])} runs; {wrong} runs ended with other numbers.")


if __name__ == "__main__":
    main()
