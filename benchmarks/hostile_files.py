"""Files of strangers, by kind, through Python and every command that opens them: what comes of each.

Run: python benchmarks/hostile_files.py [KIND ...]

The kinds are the modules of ``crafted/``. Each kind has a process of its own, in which every file is opened from
Python and by each of its commands; every tenth command has one for itself. Watched are: a marker that the attacks try
to leave, modules that were not there before (what a good file of the kind, PyTorch or Secateur import does not count),
the growth of the resident memory, time, and the words of the answer. Writes results/hostile_files.json, and the table
and every wrong answer into docs/hostile.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from crafted import MARK, ROOT, Crafted, kinds
from hostile import CLEAR, DOCS, HANG, START_S, TAKEN, TRACEBACK, answer, told
from records import into_docs, read, table, write

from secateur.core.errors import SecateurError

EXECUTED, IMPORTED, LARGE, WRONGLY = "executed", "imported", "over 500 MB", "accepted wrongly"
OUTCOMES = (CLEAR, TAKEN, WRONGLY, EXECUTED, IMPORTED, LARGE, TRACEBACK, HANG)
GOOD = (CLEAR, TAKEN)
LARGEST = 500 * 10**6
SILENT_S = 40.0
OURS = {"secateur", "torch", "numpy", "PIL", "crafted", "tests"}
"""Packages whose own parts may be loaded late; of everything else, nothing that a good file does not load."""


def peak() -> int:
    """Bytes of resident memory at most since :func:`forget`."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def command(line: list[str], tell: Callable[[list[str]], tuple[int, str]]) -> Callable[[], None]:
    """Runs a command line; what is wrong about its end is an error of another class."""

    def run() -> None:
        status, said = tell(line)
        left = sorted(str(p) for p in Path("out").rglob("*")) if Path("out").exists() else []
        if status not in (0, 2) or "Traceback" in said or (status == 2 and left):
            raise RuntimeError(f"status {status}, left {left[:3]}: {said[-300:]}")
        if status == 2:
            words = " ".join(said.split())
            if "weights_only" in words:
                raise RuntimeError(f"advises the unsafe way: {words}")
            raise SecateurError(words)

    return run


def ways(case: Crafted, path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "Python", lambda: case.opens(path)
    for line in case.commands:
        filled = [part.replace("{}", str(path)) for part in line]
        yield f"secateur {' '.join(line)}", command(filled, told)


def judged(case: Crafted, found: str, here: Path, modules: list[str], grown: int) -> str:
    if (here / MARK).exists() or Path("/tmp", MARK).exists() or (here.parent / MARK).exists():
        return EXECUTED
    if modules:
        return IMPORTED
    if grown > LARGEST:
        return LARGE
    return WRONGLY if found == TAKEN and not case.fine else found


def watch(case: Crafted, known: set[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of one file; ``known`` are the modules that good files have loaded (``None``: no good file yet)."""
    with tempfile.TemporaryDirectory() as outer:
        here = Path(outer) / "here"
        here.mkdir()
        with contextlib.chdir(here):
            path = case.make(here)
            for way, run in ways(case, path):
                yield {"begins": way}
                before = set(sys.modules) if known is None else known
                forget()
                size = peak()
                outcome, words, seconds = answer(run)
                strange = sorted({m for m in set(sys.modules) - before if m.partition(".")[0] not in OURS})
                outcome = judged(case, outcome, here, [] if known is None or case.fine else strange, peak() - size)
                yield {"case": case.name, "way": way, "outcome": outcome, "seconds": round(seconds, 3),
                       "grown_mb": round((peak() - size) / 1e6, 1), "modules": strange[:5], "words": words}  # fmt: skip
                subprocess.run(["rm", "-rf", "out"], check=False)


def work(kind: str, start: int) -> None:
    """All files of a kind from the given one on, a line of JSON each."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    out = os.fdopen(os.dup(1), "w")
    for line in (["run", "nowhere.yaml"], ["criteria"], ["prune", "nothing", "--ratio", "0.5"]):
        told(line)  # what any command loads
    b"x".decode("cp437")  # what names in zip archives are written in
    known: set[str] | None = None
    for number, case in enumerate(kinds()[kind]()):
        if number < start and not case.fine:  # good ones again, for what they load
            continue
        for row in watch(case, known):
            if number >= start:
                out.write(json.dumps({"number": number, **row}) + "\n")
                out.flush()
        if case.fine or known is not None:  # what one file has loaded is not held against the next
            known = set(sys.modules)


def rows_of(kind: str) -> Iterator[dict[str, Any]]:
    """Runs workers, a new one behind every file that hangs or ends its worker."""
    start, ended = 0, False
    while not ended:
        worker = subprocess.Popen([sys.executable, __file__, "--work", kind, str(start)], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        assert worker.stdout is not None
        last: dict[str, Any] = {}
        patience = START_S + SILENT_S  # its start, and the good files
        while True:
            ready, _, _ = select.select([worker.stdout], [], [], patience)
            line = worker.stdout.readline() if ready else b""
            if not line:
                break
            last = json.loads(line)
            patience = SILENT_S
            if "case" in last:
                yield {"kind": kind, **last}
        ended = worker.poll() == 0 or (bool(ready) and worker.wait() == 0)
        if not ended:
            worker.kill()
            worker.wait()
            start = last.get("number", start) + 1
            yield {"kind": kind, "number": start - 1, "case": f"number {start - 1}",
                   "way": last.get("begins", "start"),
                   "outcome": HANG, "seconds": SILENT_S, "grown_mb": 0, "modules": [],
                   "words": "hung or died"}  # fmt: skip


def alone(case: Crafted, line: tuple[str, ...]) -> dict[str, Any]:
    """A command in a process of its own."""
    with tempfile.TemporaryDirectory() as outer:
        here = Path(outer) / "here"
        here.mkdir()
        path = case.make(here)
        used = 0

        def tell(words: list[str]) -> tuple[int, str]:
            nonlocal used
            with (Path(outer) / "said").open("w+") as said:
                done = subprocess.Popen([sys.executable, "-m", "secateur", *words], stdout=said, stderr=said, cwd=here)
                limit = time.monotonic() + START_S
                while time.monotonic() < limit:
                    pid, status, usage = os.wait4(done.pid, os.WNOHANG)
                    if pid:
                        used = usage.ru_maxrss * 1024
                        said.seek(0)
                        return os.waitstatus_to_exitcode(status), said.read()
                    time.sleep(0.05)
                done.kill()
                done.wait()
                raise TimeoutError("over the limit")

        with contextlib.chdir(here):
            filled = [part.replace("{}", str(path)) for part in line]
            outcome, words, seconds = answer(command(filled, tell))
        outcome = HANG if words.startswith("TimeoutError") else outcome
        if outcome == HANG and seconds < START_S:
            outcome = CLEAR if words else TAKEN
        outcome = judged(case, outcome, here, [], 0)
        return {"case": case.name, "way": f"process: secateur {' '.join(line)}", "outcome": outcome,
                "seconds": round(seconds, 3), "peak_mb": round(used / 1e6), "modules": [], "words": words}  # fmt: skip


def alone_of(kind: str) -> Iterator[dict[str, Any]]:
    """Every tenth command of a kind alone, and the first, which shows what memory a good file takes."""
    usual = None
    pairs = [(case, line) for case in kinds()[kind]() for line in case.commands]
    for case, line in pairs[::10]:
        row = {"kind": kind, **alone(case, line)}
        usual = row["peak_mb"] if usual is None else usual
        row["grown_mb"] = max(0, row["peak_mb"] - usual)
        if row["grown_mb"] * 1e6 > LARGEST and row["outcome"] in GOOD:
            row["outcome"] = LARGE
        yield row


def render(rows: list[dict[str, Any]]) -> str:
    body = []
    for kind in sorted({r["kind"] for r in rows}):
        own = [r for r in rows if r["kind"] == kind]
        found = Counter(r["outcome"] for r in own)
        body.append([kind, len({r["case"] for r in own}), len(own), *(found[o] for o in OUTCOMES),
                     f"{max(r['grown_mb'] for r in own):.0f}"])  # fmt: skip
    sums = [sum(line[k] for line in body) for k in range(1, 3 + len(OUTCOMES))]
    body.append(["**all**", *sums, f"{max(r['grown_mb'] for r in rows):.0f}"])
    wrong = [f"- {r['kind']}, `{r['case'][:80]}`, `{r['way'][:80]}`: {r['outcome']}, {r['words'][:160]}"
             for r in rows if r["outcome"] not in GOOD]  # fmt: skip
    head = ["kind", "files", "openings", *OUTCOMES, "most memory, MB"]
    return f"{table(head, body)}\n\n" + ("\n".join(wrong) or "Every answer is right.")


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(SECATEUR_CACHE=f"{home}/cache", XDG_STATE_HOME=f"{home}/state", XDG_CACHE_HOME=f"{home}/xdg",
                          OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT / "src"))  # fmt: skip
        rows = [r for r in read("hostile_files") if wanted and r["kind"] not in wanted]
        for kind in wanted or kinds():
            found = [*rows_of(kind), *alone_of(kind)]
            print(kind, len({r["case"] for r in found}), Counter(r["outcome"] for r in found), flush=True)
            for row in found:
                if row["outcome"] not in GOOD:
                    print(" ", row, flush=True)
            rows += found
    write("hostile_files", rows, threads=1)
    into_docs(DOCS, "hostile files", render(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
