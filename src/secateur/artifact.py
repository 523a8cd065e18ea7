"""Artifacts: a folder with the weights (safetensors), the plan (JSON) and, if wanted, the graph (.pt2)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur
from secateur import arguments
from secateur.errors import InputError, PlanError, WeightsError
from secateur.plan import Plan, remember

if TYPE_CHECKING:
    from secateur.pruned import Pruned

__all__ = ["atomically", "load", "read_plan", "save"]

FORMAT = 1
WEIGHTS, PLAN, GRAPH = "model.safetensors", "plan.json", "model.pt2"


# ------------------------------------------------------------------------------------------------------- save


def save(pruned: Pruned, folder: Path, *, graph: bool) -> Path:
    """Writes the artifact; files are complete or not there at all, and the plan comes last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        weights = atomically(folder / WEIGHTS, lambda p: save_file(_state(pruned.model), p))
        if graph:
            atomically(folder / GRAPH, lambda p: _save_graph(pruned, p))
        elif (folder / GRAPH).exists():
            (folder / GRAPH).unlink()
        record = _record(pruned, weights, graph)
        atomically(folder / PLAN, lambda p: p.write_text(json.dumps(record)))
    except OSError as error:
        raise InputError(f"The artifact cannot be written to {folder}: {error.strerror or error}.") from error
    return folder


def atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Writes beside the final place and moves there in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(name))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with shared tensors stored once."""
    again = _shared_names(model)
    state = model.state_dict()
    return {n: t.cpu().contiguous() for n, t in state.items() if isinstance(t, Tensor) and n not in again}


def _shared_names(model: nn.Module) -> dict[str, str]:
    """Further names of tensors that have several, with the first one."""
    first: dict[int, str] = {}
    named = [(n, t) for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)]
    return {n: first[id(t)] for n, t in named if first.setdefault(id(t), n) != n}


def _record(pruned: Pruned, weights: Path, graph: bool) -> dict[str, Any]:
    """Everything of the artifact that is not weights."""
    state = pruned.model.state_dict()
    proof = pruned.verification
    return {
        "artifact_format": FORMAT,
        "secateur": secateur.__version__,
        "torch": torch.__version__,
        "backend": pruned.backend,
        "graph": graph,
        "plan": pruned.plan.to_dict(),
        "shapes": {n: list(t.shape) for n, t in state.items() if isinstance(t, Tensor)},
        "shared": _shared_names(pruned.model),
        "inputs": _describe(pruned.example_inputs),
        "params": [pruned.before.params, pruned.after.params],
        "macs": [pruned.before.macs, pruned.after.macs],
        "verified": None if proof is None or not proof.proven else proof.max_relative_error,
        "sha256": {WEIGHTS: _digest(weights)},
    }


def _describe(inputs: Any) -> Any:
    """Shapes and types of the example inputs, from which the network can be traced again."""
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Mapping):
        return {"named": {k: _describe(v) for k, v in inputs.items()}}
    if isinstance(inputs, (tuple, list)):
        return {"items": [_describe(v) for v in inputs]}
    return {"value": inputs if isinstance(inputs, (int, float, bool, str, type(None))) else None}


def _example(described: Any) -> Any:
    """Inputs of the described shapes: noise, or zeros where they are whole numbers."""
    if "shape" in described:
        dtype = getattr(torch, described["dtype"])
        plain = torch.zeros(described["shape"], dtype=dtype)
        return torch.randn_like(plain) if dtype.is_floating_point else plain
    if "named" in described:
        return {k: _example(v) for k, v in described["named"].items()}
    return tuple(map(_example, described["items"])) if "items" in described else described["value"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_graph(pruned: Pruned, path: Path) -> None:
    from secateur.deploy import export

    temporary = path.with_name(f"{path.stem}-graph.pt2")
    try:
        export(pruned.model, pruned.example_inputs, temporary, to="pt2")
        shutil.move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------- load


@arguments.checked
def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Loads an artifact.

    Args:
        folder: What :meth:`Pruned.save` wrote.
        model: A fresh dense network of the user's class. Its structure is cut as the plan says and filled
            with the stored weights; it is not touched itself. Without it the self-contained graph is loaded,
            which needs none of the user's code.

    Returns:
        The pruned network, in eval mode, ready to run and to train further.

    Raises:
        InputError: No artifact there, or no graph in it and no ``model`` given.
        WeightsError: Damaged files, or weights that do not fit (which names, which shapes).
        PlanError: The plan does not fit ``model``.
    """
    folder = Path(folder)
    record = _read(folder)
    weights = _weights(folder, record)
    if model is None:
        pruned = _load_graph(folder, set(weights) | set(record["shared"]))
    elif record["backend"] == "module":
        from secateur.surgery import prune_module

        plan = Plan.from_dict(record["plan"])
        _same_shapes(model, plan)
        pruned = prune_module(model, plan.keep, plan.replaced, plan.indices)
    else:
        from secateur.api import apply

        plan = Plan.from_dict(record["plan"])
        pruned = apply(model, plan, _example(record["inputs"]), backend="graph").model
    _share(pruned, record["shared"])
    _fill(pruned, weights)
    remember(pruned, Plan.from_dict(record["plan"]))
    return pruned.eval()


def read_plan(folder: str | Path) -> Plan:
    """Reads the plan of an artifact alone."""
    return Plan.from_dict(_read(Path(folder))["plan"])


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PLAN
    if not path.is_file():
        raise InputError(f"There is no artifact in {folder}: {PLAN} is missing. Pruned.save(folder) writes one.")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise PlanError(f"{path} is damaged: {error}.") from error
    if not isinstance(record, dict) or record.get("artifact_format") != FORMAT:
        got = record.get("artifact_format") if isinstance(record, dict) else None
        raise PlanError(f"{path} has artifact format {got!r}; this Secateur reads format {FORMAT}.")
    return record


def _weights(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{path} is missing; the artifact is not complete.")
    if _digest(path) != record["sha256"][WEIGHTS]:
        raise WeightsError(f"{path} does not have the digest that {PLAN} records: it was damaged or exchanged.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from error


def _load_graph(folder: Path, stored: set[str]) -> nn.Module:
    from torch.fx import GraphModule

    from secateur.deploy.pt2 import read_program
    from secateur.graph.guard import Sizes
    from secateur.surgery import finished

    path = folder / GRAPH
    if not path.is_file():
        raise InputError(
            f"{folder} holds no self-contained graph ({GRAPH}); give the dense network, "
            "load(folder, model=YourNetwork()), or save with graph=True."
        )
    program = read_program(path)
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    graph = GraphModule(module, module.graph, class_name="PrunedGraph")  # one that can be trained
    for name, buffer in list(graph.named_buffers()):  # constants of the graph are not among the weights
        if name not in stored:
            home, _, leaf = name.rpartition(".")
            graph.get_submodule(home).register_buffer(leaf, buffer, persistent=False)
    return finished(graph, Sizes.of(program))


def _same_shapes(model: nn.Module, plan: Plan) -> None:
    """The fresh network has to be the dense one that the plan was made for."""
    own = {n: tuple(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    for name, shape in plan.dense_shapes.items():
        if name in own and own[name] != shape:
            raise PlanError(f"The plan was made for {name!r} of shape {shape}; in the given network it is {own[name]}.")


def _share(model: nn.Module, shared: Mapping[str, str]) -> None:
    """Makes tensors that have two names one again (a traced graph keeps two)."""
    for name, first in shared.items():
        (path, _, leaf), (home, _, original) = name.rpartition("."), first.rpartition(".")
        setattr(model.get_submodule(path), leaf, getattr(model.get_submodule(home), original))


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies the weights in place, so that tensors with two names stay shared."""
    own = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    again = _shared_names(model)
    missing = [n for n in own if n not in weights and n not in again]
    surplus = [n for n in weights if n not in own]
    wrong = [f"{n}: stored {tuple(w.shape)}, network {tuple(own[n].shape)}" for n, w in weights.items()
             if n in own and own[n].shape != w.shape]  # fmt: skip
    if missing or surplus or wrong:
        parts = [f"missing in the file: {missing[:5]}"] * bool(missing)
        parts += [f"not in the network: {surplus[:5]}"] * bool(surplus) + [f"shapes: {wrong[:5]}"] * bool(wrong)
        raise WeightsError(f"The stored weights do not fit the pruned network ({'; '.join(parts)}).")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
