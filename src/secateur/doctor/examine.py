"""All that is looked at, one finding each."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from secateur.core.errors import SecateurError, first_line
from secateur.doctor.extras import Extra, extras, import_names
from secateur.doctor.imports import failed_imports
from secateur.models import import_torchvision
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.conformance import check_runtime
from secateur.runtimes.packages import install_command
from secateur.timing import machine

__all__ = ["Finding", "State", "examine", "is_fit"]

State = Literal["ok", "note", "missing", "broken"]
_LITTLE_DISK = 2 * 10**9
_BUSY = 0.5
"""Load per core from which timings are unsteady."""
_TOOLS = ("dev", "test")
"""Extras of those who work on Secateur itself."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        state: ``ok``; ``note``: it works, and there is something to know; ``missing``: not installed, which is no
            fault; ``broken``: installed or needed, and does not work.
        said: What was found.
        fix: What to do; empty where there is nothing.
    """

    what: str
    state: State
    said: str
    fix: str = ""


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether nothing is broken."""
    return all(finding.state != "broken" for finding in findings)


def examine() -> tuple[Finding, ...]:
    """Looks at everything; nothing is changed, and nothing is sent anywhere."""
    known = [extra for extra in extras() if extra.name not in _TOOLS]
    return (*_versions(), *_threads(), *_folders(), *_packages(known), *_operators(), *_runtimes())


def _versions() -> Iterator[Finding]:
    found = machine()
    yield Finding("secateur", "ok", found.versions.get("secateur", "runs from a source tree that was not installed"))
    yield Finding("Python", "ok", f"{found.python} on {found.os}")
    yield Finding("PyTorch", "ok", f"{torch.__version__}, {_devices()}")


def _devices() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} GPU(s)"
    return "no GPU that it can use"


def _threads() -> Iterator[Finding]:
    found = machine()
    asked = os.environ.get("OMP_NUM_THREADS")
    said = f"{found.threads} for {found.cores} cores of {found.cpu}" + (f" (OMP_NUM_THREADS={asked})" if asked else "")
    if found.threads > found.cores:
        yield Finding("threads", "note", said, f"export OMP_NUM_THREADS={found.cores}: more threads than cores wait")
    else:
        yield Finding("threads", "ok", said)
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # no such thing here
        return
    said = f"{load:.1f} on {os.cpu_count() or 1} cores over the last minute"
    busy = load / (os.cpu_count() or 1) > _BUSY
    yield Finding(
        "load", "note" if busy else "ok", said, "what is timed now is unsteady: wait, or stop the rest" * busy
    )


def _folders() -> Iterator[Finding]:
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"written")
            file.flush()
        yield Finding("temporary folder", "ok", tempfile.gettempdir())
    except OSError as error:
        yield Finding("temporary folder", "broken", first_line(error), "set TMPDIR to a folder that you may write to")
    places = {Path.cwd(): "working folder"}
    with contextlib.suppress(OSError):  # none that can be written to: said above
        places.setdefault(Path(tempfile.gettempdir()), "temporary folder")
    for place, name in places.items():
        free = shutil.disk_usage(place).free
        said = f"{free / 1e9:.1f} GB free"
        little = free < _LITTLE_DISK
        fix = "runs keep every network that they make: free some, or give another folder with --out"
        yield Finding(f"disk of the {name}", "note" if little else "ok", said, fix * little)


def _packages(known: Sequence[Extra]) -> Iterator[Finding]:
    """The extras: what is there, what is missing, and what is there and does not import."""
    if not any(extra.installed or extra.missing for extra in known):
        yield Finding("packages", "note", "Secateur's metadata are not installed, so its extras are not known",
                      "pip install -e .")  # fmt: skip
    names = import_names(name for extra in known for name in extra.installed)
    failed = failed_imports(list(dict.fromkeys(names.values())))
    for extra in known:
        broken = {name: failed[names[name]] for name in extra.installed if names.get(name) in failed}
        yield _extra(extra, {name: said for name, said in broken.items() if not _only_operators(said)})


def _extra(extra: Extra, broken: dict[str, str]) -> Finding:
    what = f"extra {extra.name}" if extra.name else "required packages"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(extra.installed.items()))
    command = install_command(extra.name, extra.missing)
    if broken:
        said = "; ".join(f"{name} {extra.installed[name]} does not import: {why}" for name, why in broken.items())
        return Finding(what, "broken", said, f"pip install --force-reinstall --no-deps {' '.join(broken)}")
    if extra.missing and not extra.name:
        return Finding(what, "broken", f"not installed: {', '.join(extra.missing)}", "pip install secateur")
    if extra.missing:
        there = f" (there: {versions})" if versions else ""
        return Finding(what, "missing", f"not installed: {', '.join(extra.missing)}{there}", command)
    return Finding(what, "ok", versions)


def _only_operators(said: str) -> bool:
    """Whether torchvision failed only for want of its compiled operators, which Secateur gets by without."""
    return "operator torchvision::" in said and "does not exist" in said


def _operators() -> Iterator[Finding]:
    """Whether torchvision's compiled operators fit this PyTorch."""
    what = "operators of torchvision"
    try:
        vision = import_torchvision()
    except SecateurError:
        return  # missing or broken: said with its extra
    try:
        box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        kept = vision.ops.nms(torch.cat((box, box)), torch.tensor([0.5, 0.9]), 0.5)
        works, said = kept.tolist() == [1], "nms gives a wrong answer"
    except Exception as error:
        works, said = False, first_line(error).partition(". ")[0]
    if works:
        yield Finding(what, "ok", "compiled for this PyTorch")
        return
    yield Finding(
        what, "note", f"not compiled for this PyTorch ({said}): its networks work here, its suppression of boxes does "
        "not, and libraries that import it (lightning, say) fail",
        "install torch and torchvision together, from one index",
    )  # fmt: skip


def _runtimes() -> Iterator[Finding]:
    """Whether each installed runtime computes what PyTorch computes, on a tiny network."""
    for name in RUNTIMES:
        runtime = RUNTIMES[name]
        if not installed(runtime) or runtime.packages == ("torch",):
            continue
        try:
            check_runtime(name, runtime)
            yield Finding(f"runtime {name}", "ok", f"{runtime.version()}: a tiny network computes what it should")
        except Exception as error:
            fix = f"pip install --force-reinstall --no-deps {runtime.packages[0].replace('_', '-')}"
            yield Finding(f"runtime {name}", "broken", f"{runtime.version()}: {first_line(error)}", fix)
