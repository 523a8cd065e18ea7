"""Kills runs at random moments and compares what they end with: `python benchmarks/kill_resume.py`.

Four recipes, a `compare` and a `sweep` run on small pictures once without a stop. Then each is run again and again: a
signal (KILL, TERM or INT) goes to the whole group of processes, to the command alone, or to one of its workers, and
`secateur resume` goes on, until as many kills as asked for have been made. Moments are counted in progress (changes of
the run's folder), not in seconds. Every number of every run (metrics, results, digests of the weights; times excepted)
has to be the one of the run without a stop, and no process and no temporary file may be left.

At the end each is stopped once more, and what it began with is changed: pixels, a missing image, the name of a class,
an overwritten weight. `secateur resume` has to notice before it trains.

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from secateur.core.files import read_json, write_json
from secateur.recipe.sameness import differences, numbers
from secateur.timing import machine

RESULT = Path(__file__).parent / "results" / "kill_resume.json"
PAGE = Path(__file__).parents[1] / "docs" / "resume.md"
AT_MOST = 12  # kills of one run: then it may end
SIGNALS = ("KILL", "TERM", "INT")
TARGETS = ("group", "command", "worker")
CLOCK = {"forward_ms", "backward_ms", "seconds", "command"}

HEAD = "name: {name}\nmodel: {{name: {model}}}\ndata: {{name: 'folder:{data}', validation: 0.1}}\nsteps:\n"
RECIPES = {
    "transfer": (
        "resnet_digits",
        "[adapt: {epochs: 2}, control: {epochs: 1}, prune: {ratio: 0.3}, finetune: {epochs: 2}, "
        "measure: {runtimes: [pytorch], budget_s: 0.2, rounds: 3, batches: [1]}, report]",
    ),
    "slimming": (
        "resnet_digits",
        "[adapt: {epochs: 2, penalty: {name: bn_l1, weight: 0.015}}, "
        "prune: {criterion: bn_scale, scope: global, ratio: 0.3}, finetune: {epochs: 2}]",
    ),
    "rounds": (
        "vgg_digits",
        "[adapt: {epochs: 1}, "
        "iterate: {rounds: 3, steps: [prune: {criterion: apoz, ratio: 0.5}, finetune: {epochs: 1}]}]",
    ),
    "lottery": (
        "vgg_digits",
        "[adapt: {epochs: 2}, sparsify: {ratio: 0.8}, rewind: {epoch: 1}, finetune: {epochs: 2}]",
    ),
}
SCENES = {
    **{name: ["run", name] for name in RECIPES},
    "compare": ["compare", "transfer", "slimming", "--jobs", "2"],
    "sweep": ["sweep", "slimming", "--ratios", "0.2,0.4", "--jobs", "2"],
}
WORKERS = ("transfer", "compare", "sweep")
"""Commands that have processes of their own, for timing or for jobs."""


# ---------------------------------------------------------------------------------------------------- what is run


def pictures(folder: Path) -> Path:
    """A tenth of scikit-learn's digits as PNG files, one folder a class."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:180], digits.target[:180], strict=True)):
        place = folder / f"digit-{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(place / f"{number:04d}.png")
    return folder


class Scene:
    """One command, with a folder of its own for everything."""

    def __init__(self, name: str, place: Path, threads: int) -> None:
        self.name, self.place, self.out = name, place, place / "out"
        self.temporary = place / "temporary"
        place.mkdir(parents=True)
        self.temporary.mkdir()
        self.data = pictures(place / "pictures")
        words = list(SCENES[name])
        for position, word in enumerate(words):
            if word in RECIPES:
                model, steps = RECIPES[word]
                text = HEAD.format(name=word, model=model, data=self.data) + f"  {steps}\n"
                (place / f"{word}.yaml").write_text(text)
                words[position] = str(place / f"{word}.yaml")
        self.workers = name in WORKERS
        self.start = [*words, "--out", str(self.out)]
        own = {"TMPDIR": str(self.temporary), "SECATEUR_CACHE": str(place / "cache")}
        self.environment = {
            **os.environ,
            **own,
            "XDG_STATE_HOME": str(place / "state"),
            "OMP_NUM_THREADS": str(threads),
        }

    def launch(self) -> subprocess.Popen[str]:
        """Starts it, or goes on with it once its folder is there."""
        words = ["resume", str(self.out)] if self.out.exists() else self.start
        return subprocess.Popen(
            [sys.executable, "-m", "secateur", *words, "--quiet"], env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def progress(self) -> tuple[str, ...]:
        """What is there of the run: it changes with every file that begins or ends."""
        found = []
        for where, folders, files in os.walk(self.out):
            for name in (*folders, *files):
                path = Path(where, name)
                try:
                    size = path.stat().st_size if name.endswith(("state.json", "metrics.jsonl")) else 0
                except OSError:
                    continue
                found.append(f"{path.relative_to(self.out)} {size}")
        return tuple(sorted(found))

    def moment(self) -> str:
        """The steps that are going on, in words."""
        begun = [p for p in self.out.glob("**/steps/*") if p.is_dir() and not (p / "result.json").exists()]
        if begun:
            return ", ".join(sorted(p.name for p in begun))
        return "between steps" if self.out.exists() else "start-up"

    def result(self) -> object:
        """All numbers that have to be the same."""
        if not (self.out / "runs").is_dir():
            return numbers(self.out)
        rows = read_json(self.out / "results.json")["rows"]
        runs = {p.name: numbers(p) for p in sorted((self.out / "runs").iterdir())}
        return json.loads(json.dumps([runs, [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]]))

    def leftovers(self) -> list[str]:
        """Temporary files in the run, beside it and in the system's place for them."""
        hidden = [p for p in self.place.rglob(".*") if p.name != ".lock" and (self.place / "cache") not in p.parents]
        return [str(p.relative_to(self.place)) for p in (*hidden, *self.temporary.iterdir())]


def processes(session: int) -> list[int]:
    """Living processes of a command's session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def gone(session: int) -> list[int]:
    """Waits until no process of the session is left; returns those that stay."""
    end = time.monotonic() + 30
    while (left := processes(session)) and time.monotonic() < end:
        time.sleep(0.01)
    return left


# ---------------------------------------------------------------------------------------------------------- kills


def changes(scene: Scene, process: subprocess.Popen[str]) -> Iterator[int]:
    """Counts changes of the folder while the process lives; yields after every look, for workers come without any."""
    before, count = scene.progress(), 0
    yield count
    while process.poll() is None:
        time.sleep(0.01)
        if (now := scene.progress()) != before:
            before, count = now, count + 1
        yield count


def uninterrupted(scene: Scene) -> tuple[object, int]:
    process = scene.launch()
    *_, count = changes(scene, process)
    if process.returncode:
        raise SystemExit(f"{scene.name} ended with status {process.returncode}: {process.stderr.read()}")
    return scene.result(), count


def killed(scene: Scene, chance: random.Random, total: int, at_most: int) -> list[dict]:
    """Runs to the end with up to ``at_most`` kills; returns what was killed when, and what was wrong after it."""
    kills: list[dict] = []
    while True:
        process = scene.launch()
        at = chance.randint(0, max(1, total // 6)) if len(kills) < at_most else None
        name, target = chance.choice(SIGNALS), chance.choice(TARGETS if scene.workers else TARGETS[:2])
        for count in changes(scene, process):
            if at is not None and count >= at and (kill := _kill(scene, process, name, target)):
                kills.append(kill | {"changes": count})
                break
        said = process.communicate()[1]
        if at is not None and process.returncode == 0 and kills and "status" not in kills[-1]:
            kills.pop()  # it had ended before the signal came
        if at is None or process.returncode == 0:
            if process.returncode != 0:
                raise SystemExit(f"{scene.name} ended with status {process.returncode}: {said}")
            return kills
        if not kills or "status" in kills[-1]:
            raise SystemExit(f"{scene.name} ended by itself with status {process.returncode}: {said}")
        kills[-1] |= _aftermath(scene, process, kills[-1], said)


def _kill(scene: Scene, process: subprocess.Popen[str], name: str, target: str) -> dict | None:
    """Sends the signal; ``None`` where there is nobody to send it to any more, or no worker yet."""
    number, during = signal.Signals[f"SIG{name}"], scene.moment()
    workers = [pid for pid in processes(process.pid) if pid != process.pid]
    if target == "worker" and not workers:
        return None
    try:
        if target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(workers[-1] if target == "worker" else process.pid, number)
    except ProcessLookupError:
        return None
    return {"signal": name, "target": target, "during": during}


def _aftermath(scene: Scene, process: subprocess.Popen[str], kill: dict, said: str) -> dict:
    """What has to hold after a kill: nobody left, no traceback, one line, and tidy after TERM and INT."""
    wrong = []
    if left := gone(process.pid):
        wrong.append(f"{len(left)} processes left")
    early = said.startswith("Fatal Python error: init") or process.returncode in (-signal.SIGTERM, -signal.SIGINT)
    if early and kill["changes"] == 0:  # the interpreter itself was starting, and there was nothing to tidy up
        return {"status": process.returncode, "wrong": wrong}
    if "Traceback" in said and not (kill["changes"] == 0 and said.strip().endswith("KeyboardInterrupt")):
        wrong.append(f"traceback: {said.strip().splitlines()[-1]}")
    if kill["target"] != "worker" and kill["signal"] != "KILL":
        wanted = {"TERM": 143, "INT": 130}[kill["signal"]]
        wrong += [f"status {process.returncode}"] if process.returncode != wanted else []
        wrong += [] if "Stopped: " in said else [f"said {said.strip()[:200]!r}"]
        wrong += [f"left {p}" for p in scene.leftovers()]
    return {"status": process.returncode, "wrong": wrong}


# -------------------------------------------------------------------------------------------------------- changes


def repaint(scene: Scene) -> str:
    path = sorted(scene.data.glob("*/*.png"))[7]
    with Image.open(path) as image:
        changed = np.asarray(image) ^ 255
    Image.fromarray(changed).save(path)
    return "images have changed"


def remove(scene: Scene) -> str:
    sorted(scene.data.glob("*/*.png"))[7].unlink()
    return "images and were"


def rename(scene: Scene) -> str:
    (scene.data / "digit-9").rename(scene.data / "digit-nine")
    return "is called 'digit-nine' and was called 'digit-9'"


def overwrite(scene: Scene) -> str:
    path = next(scene.out.glob("**/steps/01-adapt/model.safetensors"))
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path)
    return "has changed since its step ended"


CHANGES = {"pixels": repaint, "missing image": remove, "renamed class": rename, "overwritten weight": overwrite}


def noticed(name: str, place: Path, threads: int) -> dict[str, dict]:
    """Stops the command when its first step is done; changes something, goes on, and puts it back, for each change."""
    scene, backup, found = Scene(name, place / "scene", threads), place / "backup", {}
    process = scene.launch()
    for _ in changes(scene, process):
        if list(scene.out.glob("**/steps/01-adapt/result.json")) and list(scene.out.glob("**/steps/02-*")):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate()
    shutil.copytree(scene.place, backup)
    for change, make in CHANGES.items():
        words, before = make(scene), _trained(scene)
        process = scene.launch()
        said = " ".join(process.communicate()[1].split()).replace(str(scene.place), "…")
        told = process.returncode == 2 and words in said and "Traceback" not in said
        found[change] = {"noticed": told, "trained": _trained(scene) != before, "said": said}
        shutil.rmtree(scene.place)
        shutil.copytree(backup, scene.place)
    shutil.rmtree(place)
    return found


def _trained(scene: Scene) -> dict[str, str]:
    return {str(p): p.read_text() for p in sorted(scene.out.glob("**/metrics.jsonl"))}


# ------------------------------------------------------------------------------------------------------- the whole


def main() -> None:
    options = parse()
    note = start(options)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours
    with tempfile.TemporaryDirectory() as scratch:
        known: dict = {}
        while left := [name for name in SCENES if count_of(note, name) < options.kills]:
            for name in left:
                one_more(name, Path(scratch), options, note, known)
        for name in SCENES:
            if name not in note["noticed"] and not options.skip_changes:
                note["noticed"][name] = noticed(name, Path(scratch) / "changes" / name, options.threads)
                write_json(options.out, note)
    show(note, options)
    sys.exit(bool(wrongs(note)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=34, help="of each of the six commands (default: 34)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the same in every run (default: 1)")
    parser.add_argument("--skip-changes", action="store_true", help="only kills")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is noted")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table is written again")
    return parser.parse_args()


def start(options: argparse.Namespace) -> dict:
    """The note of an earlier, stopped benchmark with the same settings, or a new one."""
    settings = {"seed": options.seed, "threads": options.threads, "recipes": hash_of([RECIPES, SCENES])}
    if options.out.exists() and (note := read_json(options.out)).get("settings") == settings:
        return note
    options.out.parent.mkdir(parents=True, exist_ok=True)
    claim = "a run killed at any moment goes on and ends with the same numbers, and leaves nothing behind"
    return {"claim": claim, "settings": settings, "machine": machine().to_json(), "runs": [], "noticed": {}}


def hash_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def one_more(name: str, place: Path, options: argparse.Namespace, note: dict, known: dict) -> None:
    """One more run of a command, with kills; ``known`` holds what it gave without any."""
    if name not in known:
        scene = Scene(name, place / name, options.threads)
        known[name] = (scene, *uninterrupted(scene))
    scene, reference, total = known[name]
    shutil.rmtree(scene.out)
    chance = random.Random(f"{options.seed}/{name}/{sum(run['scene'] == name for run in note['runs'])}")
    kills = killed(scene, chance, total, min(AT_MOST, options.kills - count_of(note, name)))
    found = differences({"all": scene.result()}, {"all": reference})
    note["runs"].append({"scene": name, "kills": kills, "differences": found, "left": scene.leftovers()})
    write_json(options.out, note)
    print(f"{name}: {count_of(note, name)} kills, {len(wrongs(note))} wrong", flush=True)


def count_of(note: dict, name: str) -> int:
    return sum(len(run["kills"]) for run in note["runs"] if run["scene"] == name)


def wrongs(note: dict) -> list[str]:
    """Everything that should not be."""
    found = [text for run in note["runs"] for text in (*run["differences"], *run["left"])]
    found += [text for run in note["runs"] for kill in run["kills"] for text in kill.get("wrong", ())]
    for name, changed in note["noticed"].items():
        found += [f"{name}: {k}: {c['said']}" for k, c in changed.items() if not c["noticed"] or c["trained"]]
    return found


def rows(note: dict) -> list[list[str]]:
    lines = []
    for name in SCENES:
        runs = [run for run in note["runs"] if run["scene"] == name]
        kills = [kill for run in runs for kill in run["kills"]]
        signals, targets = (Counter(kill[key] for kill in kills) for key in ("signal", "target"))
        noted = note["noticed"].get(name, {})
        lines.append(
            [
                name,
                str(len(runs)),
                str(len(kills)),
                ", ".join(f"{signals[s]} {s}" for s in SIGNALS),
                ", ".join(f"{targets[t]} {t}" for t in TARGETS),
                str(sum(len(run["differences"]) for run in runs)),
                str(sum(len(run["left"]) + sum(len(k.get("wrong", ())) for k in run["kills"]) for run in runs)),
                f"{sum(c['noticed'] and not c['trained'] for c in noted.values())} of {len(noted)}",
            ]
        )
    return lines


def show(note: dict, options: argparse.Namespace) -> None:
    """Prints the table, and writes it into the page."""
    heads = ["Command", "Runs", "Kills", "Signals", "Sent to", "Numbers that differ", "Left or said wrong", "Noticed"]
    table = Table(*heads)
    for row in rows(note):
        table.add_row(*row)
    Console().print(table)
    for text in wrongs(note):
        print(text)
    text, mark = options.page.read_text(encoding="utf-8"), "kill_resume"
    head, tail = text.partition(f"<!-- {mark} -->")[0], text.partition(f"<!-- /{mark} -->")[2]
    lines = [heads, ["---"] * len(heads), *rows(note)]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    options.page.write_text(f"{head}<!-- {mark} -->\n\n{drawn}\n\n<!-- /{mark} -->{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
