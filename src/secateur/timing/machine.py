"""On what a measurement was made: processor, threads, operating system, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from secateur.runtimes import RUNTIMES
from secateur.timing.records import Record

__all__ = ["Machine", "machine"]

_PACKAGES = ("secateur", "torch", "torchvision", "numpy")
"""Besides those of the runtimes."""


@dataclass(frozen=True)
class Machine(Record):
    """The machine and the software that a measurement was made on.

    Attributes:
        cpu: Model name of the processor.
        cores: Logical cores that this process may use.
        threads: Threads that PyTorch uses inside an operator.
        memory_bytes: Main memory; 0 where the system does not say.
        os: Operating system, release and architecture.
        python: Version of Python.
        versions: Version per package; only those that are installed.
    """

    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    os: str
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)


def machine() -> Machine:
    """Describes the machine this runs on; no name, address or path of it is recorded.

    >>> machine().versions["torch"] == importlib.metadata.version("torch")
    True
    """
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in _packages() if (version := _version(name))},
    )


def _packages() -> tuple[str, ...]:
    runtimes = (RUNTIMES[name] for name in RUNTIMES)
    needed = (package.replace("_", "-") for one in runtimes for package in (*one.packages, *one.int8_packages))
    return tuple(dict.fromkeys((*_PACKAGES, *needed)))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    # A container is often given fewer cores than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
