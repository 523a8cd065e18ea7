"""A runtime of the user's own: a module outside the package, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import ExportError, InputError, UnknownNameError
from secateur.exports import export
from secateur.exports.entered import entered
from secateur.recipe.steps.measuring import MeasureSettings
from secateur.recipe.steps.shipping import ExportSettings
from secateur.runtimes import RUNTIMES, Program, Runtime, runtime
from secateur.runtimes.writing import open_written
from secateur.timing import Entrant, latency, machine

SOURCE = '''
"""Runs stacks of linear layers and ReLUs in NumPy, from files of plain arrays."""

import numpy as np
import torch

from secateur.runtimes import Program, Runtime, runtime


@runtime("numpy")
class NumPy(Runtime):
    title = "NumPy"
    summary = "linear layers and ReLUs in NumPy"
    packages = ("numpy",)
    suffixes = (".npz",)
    step = 4

    def convert(self, traced, file):
        state, arrays = traced.program.state_dict, {}
        names = {p.arg.name: p.target for p in traced.program.graph_signature.input_specs}
        for node in traced.program.graph.nodes:
            if node.op == "call_function" and node.target == torch.ops.aten.linear.default:
                for argument, kind in zip(node.args[1:], "wb"):
                    arrays[f"{len(arrays)}{kind}"] = state[names[argument.name]].detach().numpy()
            elif node.op == "call_function":
                if node.target != torch.ops.aten.relu.default:
                    raise ValueError(f"{node.target} is no operator of mine")
                arrays[f"{len(arrays)}r"] = np.zeros(0)
        with file.open("wb") as opened:
            np.savez(opened, **arrays)

    def from_file(self, file, threads):
        with np.load(file, allow_pickle=False) as held:
            steps = [(name[-1], held[name]) for name in sorted(held, key=lambda n: int(n[:-1]))]

        def run(x):
            for kind, array in steps:
                x = {"w": lambda: x @ array.T, "b": lambda: x + array, "r": lambda: np.maximum(x, 0)}[kind]()
            return x

        return Program(lambda x: x.numpy(), run, lambda y: [torch.as_tensor(y)])
'''


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sinh()


def network(width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)).eval()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The user's module, imported from the user's folder."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "numpy_runtime.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("numpy_runtime")
    del RUNTIMES._items["numpy"], sys.modules["numpy_runtime"]


@pytest.mark.usefixtures("own")
def test_it_takes_no_more_than_fifty_lines() -> None:
    assert len(SOURCE.strip().splitlines()) <= 50


@pytest.mark.usefixtures("own")
def test_networks_are_exported_to_it_by_ending_and_by_name(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    for name, to in (("net.npz", None), ("bare", "numpy")):
        check = export(network(), x, tmp_path / name, to, check_inputs=x)
        assert (check.format, check.dynamic_batch, check.runtime) == ("numpy", True, f"numpy {np.__version__}")
        assert check.max_difference < 1e-6
        # Independently of the check.
        (found,) = RUNTIMES["numpy"].open(tmp_path / name)(x)
        torch.testing.assert_close(found, network()(x))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("processes", [0, 1])
def test_networks_are_timed_in_it_here_and_in_processes(tmp_path: Path, processes: int) -> None:
    export(network(), torch.zeros(1, 8), tmp_path / "dense.npz")
    (timing,) = latency(
        {"dense.npz": tmp_path / "dense.npz"}, torch.zeros(1, 8), batches=(2,), rounds=3, processes=processes
    )
    assert (timing.model, timing.runtime, timing.batch, timing.processes) == ("dense", "numpy", 2, processes)
    found = list(entered({"net": network(), "odd": Wide()}, torch.zeros(4, 8), tmp_path, runtimes=["numpy"]))
    assert [(e.name, e.batch, bool(e.problem)) for e in found] == [("net", None, False), ("odd", None, True)]
    assert "operator" in found[1].problem
    assert found[0].bytes == Path(str(found[0].network)).stat().st_size


@pytest.mark.usefixtures("own")
def test_recipes_and_records_know_it() -> None:
    assert MeasureSettings(runtimes=("numpy",)).runtimes == ExportSettings(to=("numpy",)).to == ("numpy",)
    assert machine().versions["numpy"] == np.__version__


@pytest.mark.usefixtures("own")
def test_what_it_refuses_is_refused_in_plain_words(tmp_path: Path) -> None:
    x, path = torch.zeros(2, 8), tmp_path / "net.npz"
    with pytest.raises(ExportError, match=r"operator aten\.sinh\.default \(in Wide\) cannot be converted to NumPy"):
        export(Wide(), x, path)
    with pytest.raises(InputError, match="no int8 files of the format 'numpy'"):
        export(network(), x, path, calibration=x)
    with pytest.raises(InputError, match=r"NumPy runs files, not modules; .*'network\.npz'"):
        RUNTIMES["numpy"].open(network())
    assert not path.exists()
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError, match=r"NumPy cannot open '.*net\.npz'"):
        RUNTIMES["numpy"].open(path)
    with pytest.raises(UnknownNameError, match="Did you mean 'numpy'"):
        export(network(), x, tmp_path / "net", "nunpy")


def test_a_file_that_differs_is_refused(own: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Runtime, file: Path, threads: int) -> Program:
        return Program(lambda x: x, lambda x: network()(x) + 1, lambda y: [y])

    monkeypatch.setattr(own.NumPy, "from_file", wrong)
    with pytest.raises(ExportError, match="The numpy file differs from the network by"):
        export(network(), torch.zeros(2, 8), tmp_path / "net.npz")
    assert not (tmp_path / "net.npz").exists()


def test_one_that_cannot_be_imported_elsewhere_is_timed_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a notebook: other processes cannot have it."""

    class Here(Runtime):
        name = title = "here"
        suffixes = (".pt2",)

        def from_module(self, module: nn.Module, threads: int) -> Program:
            return Program(lambda x: x, module, lambda y: [y])

    Here.__module__ = "__main__"
    monkeypatch.setitem(RUNTIMES._items, "here", Here())
    entrants = [Entrant("a", network(), "here")]
    (timing,) = latency(entrants, torch.zeros(1, 8), batches=(1,), rounds=3, processes=2)
    assert timing.processes == 0


class Elsewhere(Runtime):
    """Opens the ONNX files that another runtime writes."""

    name = title = format = "elsewhere"
    suffixes = (".onnx",)

    def from_file(self, file: Path, threads: int) -> Program:
        return RUNTIMES["onnxruntime"].open(file, threads)


def test_one_that_only_reads_gets_the_files_of_the_one_that_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(RUNTIMES._items, "elsewhere", Elsewhere())
    found = list(entered({"a": network()}, torch.zeros(2, 8), tmp_path, runtimes=["elsewhere"]))
    assert [(e.runtime, e.problem, Path(str(e.network)).suffix) for e in found] == [("elsewhere", "", ".onnx")]
    program = open_written(network(), torch.zeros(2, 8), tmp_path, RUNTIMES["elsewhere"], 1)
    x = torch.randn(5, 8)
    torch.testing.assert_close(program(x)[0], network()(x), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(Elsewhere, "suffixes", (".mars",))
    (failed,) = entered({"b": network()}, torch.zeros(2, 8), tmp_path / "b", runtimes=["elsewhere"])
    assert failed.problem == "It opens files (.mars) that nothing here writes."


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("pytorch", {"from_module": print}, "'pytorch' is registered twice"),
        ("mine", {}, "'mine' can run nothing: it has neither from_module"),
        ("mine", {"from_file": print}, r"'mine' opens files: suffixes=\('.ending', …\); got \(\)"),
        ("mine", {"from_file": print, "suffixes": ("npz",)}, r"suffixes=\('.ending', …\); got \('npz',\)"),
        ("mine", {"from_file": print, "convert": print, "suffixes": (".onnx",)}, r"\.onnx.*so does 'onnxruntime'"),
        ("mine", {"from_file": print, "convert": print, "suffixes": (".x",), "format": "pt2"}, "so does 'pytorch'"),
    ],
)
def test_a_description_that_cannot_be_one(name: str, members: dict[str, object], words: str) -> None:
    before = list(RUNTIMES)
    with pytest.raises(InputError, match=words):
        runtime(name)(type("Mine", (Runtime,), members))
    assert list(RUNTIMES) == before
