"""Which packages the extras of the installed Secateur name, and what of them is there: read from its own metadata."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Extra", "extras", "import_names"]

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(\[[^\]]*\])?[^;]*(?:;.*?extra\s*==\s*['\"]([\w-]+)['\"])?")


@dataclass(frozen=True)
class Extra:
    """One extra.

    Attributes:
        name: Its name; empty for what Secateur always needs.
        installed: Versions by the name of the distribution.
        missing: Distributions that are not installed.
    """

    name: str
    installed: Mapping[str, str]
    missing: tuple[str, ...]


def extras(requirements: Iterable[str] | None = None) -> tuple[Extra, ...]:
    """What is always needed, then the extras by name; those that only put others together are left out.

    Args:
        requirements: As a distribution's metadata has them; by default those of the installed Secateur (none where it
            runs from a source tree that was never installed).

    >>> [(e.name, sorted(e.installed), e.missing) for e in extras(["torch>=2", 'no-such-one>1; extra == "x"'])]
    [('', ['torch'], ()), ('x', [], ('no-such-one',))]
    """
    if requirements is None:
        try:
            requirements = importlib.metadata.requires("secateur") or ()
        except importlib.metadata.PackageNotFoundError:
            requirements = ()
    named: dict[str, list[str]] = {"": []}
    together = set()
    for line in requirements:
        found = _REQUIREMENT.match(line)
        if found is None:
            continue
        extra = found[3] or ""
        if found[1].lower() == "secateur":
            together.add(extra)
        named.setdefault(extra, []).append(found[1])
    return tuple(_looked_up(extra, named[extra]) for extra in sorted(named) if extra not in together)


def _looked_up(name: str, distributions: Iterable[str]) -> Extra:
    installed, missing = {}, []
    for distribution in distributions:
        try:
            installed[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            missing.append(distribution)
    return Extra(name, installed, tuple(missing))


def import_names(distributions: Iterable[str]) -> dict[str, str]:
    """What each installed distribution is imported as: its own name, or else the shortest that it brings.

    >>> import_names(["PyYAML", "torch"])
    {'PyYAML': 'yaml', 'torch': 'torch'}
    """
    brought: dict[str, list[str]] = {}
    for module, owners in importlib.metadata.packages_distributions().items():
        for owner in owners:
            brought.setdefault(_plain(owner), []).append(module)
    found = {}
    for distribution in distributions:
        modules = [m for m in brought.get(_plain(distribution), ()) if m.isidentifier() and not m.startswith("_")]
        if modules:
            found[distribution] = min(modules, key=lambda m: (_plain(m) != _plain(distribution), len(m), m))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
