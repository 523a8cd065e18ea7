"""Measured times of layers, kept on disk: one JSON file per runtime, processor, threads and batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError
from secateur.core.files import write_json
from secateur.core.reading import read_json
from secateur.data.cache import cache_folder
from secateur.runtimes import RUNTIMES, Runtime
from secateur.timing.machine import machine

__all__ = ["Setting", "Times"]

_FORMAT = 2  # a file of another is left alone: its name differs


@dataclass(frozen=True)
class Setting:
    """Where times hold.

    Attributes:
        runtime: Name in :data:`~secateur.runtimes.RUNTIMES`.
        batch: Samples per call.
        threads: Threads inside an operator.
    """

    runtime: str
    batch: int = 1
    threads: int = 1

    @property
    def program(self) -> Runtime:
        """The runtime itself."""
        return RUNTIMES[self.runtime]

    def facts(self) -> dict[str, Any]:
        """All that times depend on: they are kept apart by it."""
        return {"runtime": self.runtime, "version": self.program.version(), "cpu": machine().cpu,
                "threads": self.threads, "batch": self.batch}  # fmt: skip

    def path(self, folder: str | Path | None = None) -> Path:
        """The file for these facts below ``folder`` (by default the cache folder)."""
        facts = self.facts()
        digest = hashlib.sha256(json.dumps([_FORMAT, facts], sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9.]+", "-", f"{facts['version']} t{self.threads} b{self.batch}".lower())
        return cache_folder(folder) / "latency" / f"{name}-{digest}.json"


@dataclass
class Times:
    """Milliseconds of layers by their key and widths, all relative to one reference layer.

    A machine is not always as fast. Every time is therefore measured beside the reference layer, and kept as if
    the reference took ``reference_ms``, whatever it took at that moment.

    Attributes:
        path: The file.
        facts: What the times depend on.
        reference_ms: Milliseconds that the reference layer took when the file was begun; 0 before that.
        layers: Milliseconds by the key of the layer, then by ``"OUTERxINNER"``.
        note: What was wrong with the file, if anything was.
    """

    path: Path
    facts: Mapping[str, Any]
    reference_ms: float = 0.0
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def open(cls, setting: Setting, folder: str | Path | None = None) -> Times:
        """Reads the file; one that is damaged counts as none, with a note."""
        path, facts = setting.path(folder), setting.facts()
        if not path.exists():
            return cls(path, facts)
        try:
            found = read_json(path, DataError)
            layers = {str(k): {str(w): _positive(ms) for w, ms in v.items()} for k, v in found["layers"].items()}
            if found["format"] != _FORMAT or found["facts"] != facts:
                raise ValueError("it was written for something else")
            return cls(path, facts, _positive(found["reference_ms"]), layers)
        except (DataError, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return cls(path, facts, note=f"the table of layer times in {path} was damaged ({reason}); measured anew")

    def get(self, key: str, outer: int, inner: int) -> float | None:
        """Milliseconds of a layer at these widths, if it was measured."""
        return self.layers.get(key, {}).get(f"{outer}x{inner}")

    def put(self, key: str, outer: int, inner: int, references: float) -> None:
        """Keeps the time of a layer, given in times of the reference layer."""
        self.layers.setdefault(key, {})[f"{outer}x{inner}"] = references * self.reference_ms

    def save(self) -> str:
        """Writes the file in one step, with what another process has added meanwhile.

        Returns:
            A note where it could not be written; the times then hold for this process only.
        """
        other = Times.open(Setting(self.facts["runtime"], self.facts["batch"], self.facts["threads"]),
                           self.path.parent.parent)  # fmt: skip
        if other.reference_ms:
            scale = other.reference_ms / self.reference_ms
            ours = {key: {w: ms * scale for w, ms in values.items()} for key, values in self.layers.items()}
            self.layers = {key: {**other.layers.get(key, {}), **ours.get(key, {})} for key in {**other.layers, **ours}}
            self.reference_ms = other.reference_ms
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"format": _FORMAT, "facts": dict(self.facts), "reference_ms": self.reference_ms,
                                   "layers": self.layers})  # fmt: skip
        except OSError as error:
            return f"the table of layer times was not kept: {self.path} cannot be written ({error.strerror})"
        return ""


def _positive(value: Any) -> float:
    if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"a time is a positive number of milliseconds; got {value!r}")
    return float(value)
