"""How the house is built: rooms, files, arrows and circles between rooms, and what repeats itself.

    python benchmarks/house.py                        prints the figures of this checkout
    python benchmarks/house.py --src ../other/src     … of another one
    python benchmarks/house.py --arrows               … and every arrow between rooms, with what draws it
    python benchmarks/house.py --before ../old/src    both: results/house.json and the table in docs/design.md

A room is a package directly below ``secateur`` (or below one that holds packages alone), or a module that lies there by
itself; ``__init__`` and ``__main__`` of the top level are the house's door and count as files, not as rooms. An arrow
goes from a room to another one that it imports, whether at the top of a file, inside a function or for types alone.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TWO_CONVOLUTIONS = """
    import sys, threading
    import torch
    from torch import nn
    import secateur
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 3, 8, 8)
    net(x)
    secateur.prune(net, x, ratio=0.5)  # everything is imported now
    seen = set()
    def called(frame, event, argument):
        file = frame.f_code.co_filename
        if event == "call" and "secateur" in file and "<" not in frame.f_code.co_name[:1]:
            seen.add(file)
    sys.setprofile(called)
    secateur.prune(net, x, ratio=0.5)
    sys.setprofile(None)
    print(len(seen), *sorted(file.rpartition("src/secateur/")[2] for file in seen))
"""


@dataclass
class House:
    """What was read of a source tree."""

    files: dict[str, Path]  # module → file
    rooms: dict[str, str]  # module → room
    arrows: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    inner: int = 0  # imports of own modules inside functions


def read(src: Path) -> House:
    package = src / "secateur"
    files = {_module(src, path): path for path in sorted(package.rglob("*.py"))}
    house = House(files, {name: _room(package, path) for name, path in files.items()})
    for name, path in files.items():
        for target, line, inside in _imports(ast.parse(path.read_text(encoding="utf-8")), name, files):
            house.inner += inside and target != name
            home, other = house.rooms[name], house.rooms[target]
            if home != other and home and other:
                house.arrows[home, other].append(f"{path.relative_to(package)}:{line} → {target}")
    return house


def _module(src: Path, path: Path) -> str:
    return ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__")


def _room(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    if parts in (("__init__",), ("__main__",)):
        return ""
    inner = [p for p in (package / parts[0]).glob("*.py") if p.stem != "__init__"]
    return parts[0] if len(parts) < 3 or inner else ".".join(parts[:2])


def _imports(tree: ast.Module, name: str, files: dict[str, Path]) -> Iterator[tuple[str, int, bool]]:
    """Own modules that are imported, with the line and whether a function does it."""
    bodies = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(child) for body in bodies for child in ast.walk(body)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in names:
            target = target if target in files else target.rpartition(".")[0]
            if target in files and target != "secateur":
                yield target, node.lineno, id(node) in inside


def circles(house: House) -> list[list[str]]:
    """Rooms that reach themselves (strongly connected components of more than one room)."""
    graph: dict[str, set[str]] = defaultdict(set)
    for a, b in house.arrows:
        graph[a].add(b)

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        stack = [start]
        while stack:
            new = graph[stack.pop()] - found
            found |= new
            stack.extend(new)
        return found

    reached = {room: reach(room) for room in set(house.rooms.values()) - {""}}
    rings = {tuple(sorted(o for o in seen if room in reached[o])) for room, seen in reached.items() if room in seen}
    return [list(ring) for ring in sorted(rings) if len(ring) > 1]


def longest(house: House) -> dict[str, Any]:
    """The longest function (its lines, docstring and all) and the longest list of arguments."""
    functions, lists = [], []
    for name, path in house.files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = node.args
                count = sum(a.arg not in ("self", "cls") for a in (*given.posonlyargs, *given.args, *given.kwonlyargs))
                doc = node.body[0]
                text = isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
                code = (node.end_lineno or 0) - ((doc.end_lineno or 0) if text else node.lineno - 1)
                functions.append((code, f"{name}.{node.name}"))
                lists.append((count, f"{name}.{node.name}"))
    return {
        "longest_functions": sorted(functions)[-3:],
        "longest_argument_lists": sorted(lists)[-5:],
        "more_than_12_arguments": [name for count, name in sorted(lists) if count > 12],
    }


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def repeated(house: House, run: int = 6) -> int:
    """Pairs of places that share ``run`` or more lines to the letter (blank lines, comments and imports aside)."""
    windows: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, path in house.files.items():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [t for t in lines if len(t) > 3 and not t.startswith(("#", "import ", "from ", '"""'))]
        for start in range(len(kept) - run + 1):
            windows[tuple(kept[start : start + run])].append((name, start))
    pairs: dict[tuple[str, str, int], int] = {}
    for places in windows.values():
        for i, (a, at) in enumerate(places):
            for b, other in places[i + 1 :]:
                pairs[a, b, other - at] = 1  # windows that follow each other are one run
    return len(pairs)


def files_of_a_cut(src: Path) -> list[str]:
    """Files of the package that a second ``prune()`` of two convolutions runs through."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(TWO_CONVOLUTIONS)], capture_output=True, text=True,
                          env={"PYTHONPATH": str(src), "PATH": "/usr/bin:/bin"}, check=True)  # fmt: skip
    return done.stdout.split()[1:]


def figures(src: Path) -> dict[str, Any]:
    house = read(src)
    found = longest(house)
    rooms = sorted(set(house.rooms.values()) - {""})
    tests, package = lines_of(src.parent / "tests"), lines_of(src / "secateur")
    cut = files_of_a_cut(src)
    return {
        "rooms": len(rooms),
        "files": len(house.files),
        "arrows": len(house.arrows),
        "circles": circles(house),
        "function_level_imports": house.inner,
        **found,
        "files_of_a_cut": len(cut),
        "repeated_runs": repeated(house),
        "lines": package,
        "test_lines_per_line": round(tests / package, 2),
        "room_names": rooms,
        "cut_runs_through": cut,
    }


ROWS = {
    "Rooms": lambda f: f["rooms"],
    "Files of `src`": lambda f: f["files"],
    "Import arrows between rooms": lambda f: f["arrows"],
    "Circles between rooms (rooms in them)": lambda f: f"{len(f['circles'])} ({sum(map(len, f['circles']))})",
    "Imports of own modules inside functions": lambda f: f["function_level_imports"],
    "Longest function, lines without its docstring": lambda f: f["longest_functions"][-1][0],
    "Longest list of arguments": lambda f: (
        f"{f['longest_argument_lists'][-1][0]} (`{f['longest_argument_lists'][-1][1].rpartition('.')[2]}`)"
    ),
    "Functions of more than 12 arguments": lambda f: len(f["more_than_12_arguments"]),
    "Files that a second `prune()` of two convolutions runs through": lambda f: f["files_of_a_cut"],
    "Pairs of places that share six or more lines": lambda f: f["repeated_runs"],
    "Lines of `src`": lambda f: f"{f['lines']:,}",
    "Lines of tests per line of `src`": lambda f: f["test_lines_per_line"],
}


def compare(before: Path, after: Path) -> None:
    """Measures two checkouts, and writes the record and the table."""
    both = {"before": {"commit": commit(before), **figures(before)}, "after": figures(after)}
    (HERE / "benchmarks/results/house.json").write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")
    rows = [(name, str(of(both["before"])), str(of(both["after"]))) for name, of in ROWS.items()]
    lines = [("", f"before ({both['before']['commit']})", "now"), ("---", "---", "---"), *rows]
    page, start, end = HERE / "docs/design.md", "<!-- house -->", "<!-- /house -->"
    text = page.read_text(encoding="utf-8")
    head, tail = text.partition(start)[0], text.partition(end)[2]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    page.write_text(f"{head}{start}\n\n{table}\n\n{end}{tail}", encoding="utf-8")


def commit(src: Path) -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=src, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, default=HERE / "src")
    parser.add_argument("--arrows", action="store_true")
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    if given.before:
        compare(given.before, given.src)
    print(json.dumps(figures(given.src), indent=1))
    if given.arrows:
        for (a, b), places in sorted(read(given.src).arrows.items()):
            print(f"{a} → {b}: {'; '.join(places[:6])}{' …' * (len(places) > 6)}")


if __name__ == "__main__":
    main()
