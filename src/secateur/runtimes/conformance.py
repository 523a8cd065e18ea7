"""What every runtime has to do, tried on a small network of linear layers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from secateur.core.errors import PluginError, SecateurError
from secateur.runtimes.base import Program, Runtime
from secateur.runtimes.writing import write_checked

__all__ = ["check_runtime"]


def check_runtime(name: str, runtime: Runtime) -> None:
    """It says what it is, computes what the network computes, and refuses a damaged file in words of its own.

    Raises:
        PluginError: Something of this is not so.
        InputError: A package is missing that it needs; the message holds the install command.
        ExportError: What it writes computes something else, or cannot be opened.
    """
    if not runtime.summary:
        raise PluginError("it has no summary, the line that `secateur runtimes` shows")
    runtime.need(f"The runtime {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
        inputs = torch.randn(2, 8)
    if runtime.modules and not runtime.slow_to_start:
        _same(runtime.open(network, 1), network, inputs)
    if runtime.writes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{runtime.suffix}"
            write_checked(network, inputs, path, runtime)
            _same(runtime.open(path, 1, trust=True), network, inputs)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            _refuses(runtime, path)


@torch.no_grad()
def _same(program: Program, network: nn.Module, inputs: torch.Tensor) -> None:
    found = program(inputs)
    wanted = network(inputs)
    if len(found) != 1 or found[0].shape != wanted.shape or not torch.allclose(found[0], wanted, rtol=1e-3, atol=1e-4):
        raise PluginError("it gives other outputs than the network")


def _refuses(runtime: Runtime, path: Path) -> None:
    try:
        runtime.open(path, 1, trust=True)
    except SecateurError as error:
        if path.name in str(error):
            return
        raise PluginError(f"of a damaged file it says {str(error)!r}, which does not name the file") from error
    raise PluginError("it opens half a file without a word")
