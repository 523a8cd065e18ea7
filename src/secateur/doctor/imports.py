"""Whether packages import, tried in a process of its own: a broken one may take its whole process down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["failed_imports"]

_MARK = "secateur-doctor "
_AFTER_TORCHVISION = ("peft",)
"""Packages that import torchvision by themselves, and fail with another message where its operators do not fit."""
_CHILD = f"""
import importlib, json, sys
out = sys.stdout
sys.stdout = sys.stderr  # what packages print is nobody's answer
def ready():  # as Secateur does it: packages that import torchvision do without its compiled operators then
    try:
        from secateur.models import import_torchvision
        import_torchvision()
    except BaseException:
        pass
for name in sys.argv[1:]:
    if name in {_AFTER_TORCHVISION!r}:
        ready()
    print({_MARK!r} + json.dumps([name, None]), file=out, flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        said = (str(error).strip().splitlines() or [""])[0][:300]
        print({_MARK!r} + json.dumps([name, f"{{type(error).__name__}}: {{said}}"]), file=out, flush=True)
"""


def failed_imports(names: Sequence[str], *, timeout: float = 300) -> dict[str, str]:
    """What importing each of ``names`` raised, by name; those that import are left out.

    Args:
        names: Of modules.
        timeout: Seconds for all of them; one that takes longer than that is said to hang.
    """
    failed: dict[str, str] = {}
    left = list(names)
    while left:
        began, raised, end = _tried(left, timeout)
        failed |= raised
        if not end:
            return failed
        last = began[-1] if began else left[0]  # the process ended while it was imported
        failed[last] = end
        left = left[left.index(last) + 1 :]
    return failed


def _tried(names: Sequence[str], timeout: float) -> tuple[list[str], dict[str, str], str]:
    """What began, what raised, and how the process ended if it did not end well."""
    command = [sys.executable, "-P", "-c", _CHILD, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        output = done.stdout
        end = "" if done.returncode == 0 else f"its process ended with {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        end = f"it did not end in {timeout:.0f} s"
    lines = [json.loads(line.removeprefix(_MARK)) for line in output.splitlines() if line.startswith(_MARK)]
    return [n for n, said in lines if said is None], {n: said for n, said in lines if said is not None}, end
