"""Whether two processes would do the same: the code and the libraries that each of them has."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import secateur

__all__ = ["code_print", "differences"]

_LIBRARIES = ("torch", "numpy", "scipy", "safetensors", "lightning-fabric", "torchvision", "timm", "transformers")
"""What decides the numbers of a run."""


def code_print() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on, and a digest of Secateur's own files."""
    found = {"Python": platform.python_version(), "secateur": f"{secateur.__version__} ({_digest()})"}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest() -> str:
    """Of every module and recipe: an installation from sources has one version for many states."""
    top, digest = Path(secateur.__file__).parent, hashlib.sha256()
    for file in sorted(path for path in top.rglob("*") if path.suffix in (".py", ".yaml")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(top).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:12]


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What is other there, in words.

    >>> differences({"torch": "2.9.0", "Python": "3.11.7"}, {"torch": "2.13.0", "Python": "3.11.7", "timm": "1.0"})
    ['no timm (here 1.0)', 'torch 2.9.0 (here 2.13.0)']
    """
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return [
        f"{name} {there[name]} (here {here.get(name, 'none')})" if name in there else f"no {name} (here {here[name]})"
        for name in names
    ]
