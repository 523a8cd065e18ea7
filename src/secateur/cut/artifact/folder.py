"""The folder: weights (safetensors), the plan (JSON) and, if wanted, the graph (JSON, its constants as safetensors).

A folder from a stranger can do nothing but be a network: no file in it is unpickled, evaluated or imported.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import secateur
from secateur.core import arguments
from secateur.core.errors import ExportError, InputError, PlanError, WeightsError, first_line
from secateur.core.files import settle
from secateur.core.plan import Plan, remember
from secateur.core.reading import file_digest, read_json
from secateur.core.shapes import described, like
from secateur.core.types import Counts, ExampleInputs, Verification
from secateur.cut.artifact import graph_file
from secateur.cut.artifact.graph_read import from_json
from secateur.cut.artifact.trial import try_out
from secateur.cut.metadata import KEY, facts
from secateur.cut.prune import apply
from secateur.cut.pruned import Pruned
from secateur.cut.training_mode import own_train_mode, with_own_train_mode
from secateur.graph.signature import call_like
from secateur.graph.trace import trace, without_recorder
from secateur.models.safetensors_file import check_header, read_safetensors
from secateur.models.transformer.saving import CONFIGURATION, save_configuration
from secateur.surgery import finished, prune_module
from secateur.surgery.agreement import TOLERANCE
from secateur.surgery.layers import put_layers
from secateur.surgery.pruned_graph import PrunedGraph, has_train_mode
from secateur.surgery.training import EVAL_ALONE
from secateur.task.metadata import ModelMetadata

__all__ = ["load", "read_inputs", "read_plan", "save"]

FORMAT = 2
"""2: the graph is ``graph.json``, no longer a ``.pt2`` archive."""
_LARGEST_GRAPH, _LARGEST_INPUTS = 16 * 2**20, 2**28
WEIGHTS, PLAN, GRAPH, CONSTANTS = "model.safetensors", "plan.json", "graph.json", "graph.safetensors"


# ------------------------------------------------------------------------------------------------------- save


def save_what_fits(
    pruned: Pruned, folder: Path, reader: str, stacklevel: int, *, metadata: ModelMetadata | None = None,
    header: bool = True,
) -> bool:  # fmt: skip
    """Writes the artifact with its graph, or with a warning without; returns whether the graph is there.

    ``reader`` is the call that reads a folder without a graph.
    """
    try:
        save(pruned, folder, graph=True, metadata=metadata, header=header)
    except ExportError as error:
        words = f"Saved without its graph, so {reader} needs your code: {error}"
        warnings.warn(words, stacklevel=stacklevel + 1)
        save(pruned, folder, graph=False, metadata=metadata, header=header)
        return False
    return True


def save(
    pruned: Pruned, folder: Path, *, graph: bool, metadata: ModelMetadata | None = None, header: bool = True
) -> Path:
    """Writes the artifact; files are complete or not there at all, and the plan comes last."""
    _refuse_others(folder)
    _refuse_empty(pruned.model)
    was_there = (folder / PLAN).exists()
    about = facts(pruned.plan, pruned.before, pruned.after, metadata)
    traced = _traced(pruned) if graph else None
    text = None if traced is None else graph_file.to_json(traced)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
            new = Path(temporary)
            told = {KEY: about} if header and metadata is not None else None  # else the plan beside it says it
            save_file(_state(pruned.model), new / WEIGHTS, metadata=told)
            if traced is not None and text is not None:
                save_file(_constants(traced), new / CONSTANTS)
                (new / GRAPH).write_text(text, encoding="utf-8")
            digests = {file.name: file_digest(file, WeightsError) for file in sorted(new.iterdir())}
            (new / PLAN).write_text(json.dumps(_record(pruned, digests, about)), encoding="utf-8")
            known = [] if "configuration" in pruned.lost else _configuration(pruned.model, new)
            for name in (*digests, *known, PLAN):
                settle(new / name, folder / name)
        for name in {GRAPH, CONSTANTS, *(CONFIGURATION if was_there else ())} - {*digests, *known}:
            (folder / name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"The artifact cannot be written to {folder}: {reason}.") from error
    return folder


def _configuration(model: nn.Module, folder: Path) -> list[str]:
    """Writes what transformers opens the weights by, where the network is one of its; returns the files' names."""
    return [name for name in CONFIGURATION if save_configuration(model, folder) and (folder / name).exists()]


def _refuse_others(folder: Path) -> None:
    """Checks that what an artifact's files would replace is an artifact.

    Raises:
        InputError: Names a file of somebody else's.
    """
    others = [folder / name for name in (WEIGHTS, GRAPH, CONSTANTS) if (folder / name).exists()]
    if others and not (folder / PLAN).exists():
        raise InputError(
            f"{others[0]} is there already and belongs to no artifact of Secateur, so it is not replaced. Choose "
            "another folder."
        )


def _refuse_empty(model: nn.Module) -> None:
    """Checks that there are values to save.

    Raises:
        InputError: The network is on the meta device.
    """
    if any(t.is_meta for t in model.state_dict().values() if isinstance(t, Tensor)):
        raise InputError(
            "The network is on the meta device and has no values to save. secateur.cut_shards(pruned, weights, out) "
            "cuts the files that hold them."
        )


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


def _traced(pruned: Pruned) -> GraphModule:
    """The pruned network as a flat graph that follows its mode and guards its sizes."""
    if isinstance(pruned.model, GraphModule) and pruned.backend == "graph":
        return pruned.model
    with without_recorder():  # nothing compares this graph with the network again
        traced = trace(pruned.model, pruned.inputs)
        training = own_train_mode(pruned.model, pruned.inputs, traced)
    graph = PrunedGraph(traced.module, traced.module.graph, class_name="PrunedGraph")  # one that has modes
    stored = pruned.model.state_dict()
    graph_file.no_weights(graph, [name for name, _ in graph.named_buffers() if name not in stored])
    put_layers(graph, pruned.model)
    finished(graph, traced.sizes, call_like(pruned.model.forward, *traced.given))
    return with_own_train_mode(graph, pruned.model, training)


def _constants(traced: GraphModule) -> dict[str, Tensor]:
    """What the graph needs beyond the weights: tables and indices, each in memory of its own."""
    found = graph_file.tensors_of(traced).items()
    return {n: t.detach().cpu().clone().contiguous() for n, (kind, t) in found if kind == "constant"}


def _record(pruned: Pruned, digests: Mapping[str, str], about: str) -> dict[str, Any]:
    """Everything of the artifact that is not weights."""
    proof = pruned.verification
    return {
        "artifact_format": FORMAT,
        "secateur": secateur.__version__,
        "torch": torch.__version__,
        "backend": pruned.backend,
        "plan": pruned.plan.to_dict(),
        "shared": _shared_names(pruned.model),
        "inputs": described(pruned.example_inputs),
        "params": [pruned.before.params, pruned.after.params],
        "macs": [pruned.before.macs, pruned.after.macs],
        "verified": None if proof is None or not proof.proven else proof.max_relative_error,
        "sha256": dict(digests),
        "about": about,
    }


# ------------------------------------------------------------------------------------------------------- load


@arguments.checked
def load(folder: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> Pruned:
    """Loads an artifact. Whoever made it, it can do nothing but be a network.

    Args:
        folder: What :meth:`Pruned.save` wrote.
        model: A fresh dense network of the user's class. Its structure is cut as the plan says and filled
            with the stored weights; it is not touched itself. Without it the self-contained graph is loaded,
            which needs none of the user's code.
        trust: Whether you know where the folder is from: a graph is then not tried on shapes first, so one is loaded
            too that makes tensors far larger than its inputs and weights, or whose sizes depend on values. Nothing in
            a folder is executed either way.

    Returns:
        What was saved: the network in eval mode, ready to run and to train further, its plan, sizes and proof. Of the
        example inputs it knows shapes and types, and the dense network it does not know (:func:`secateur.recover`
        wants ``dense=``).

    Raises:
        InputError: No artifact there, or no graph in it and no ``model`` given.
        WeightsError: Damaged files, or weights that do not fit (which names, which shapes).
        PlanError: The plan does not fit ``model``, or the graph holds what no network needs.
    """
    folder = Path(folder)
    record = _read(folder)
    weights = _weights(folder, WEIGHTS, record["sha256"])
    plan = Plan.from_dict(record["plan"])
    if model is None:
        network = _load_graph(folder, record, weights, trust=trust)
        _check_fit(network, weights)
    else:
        _same_shapes(model, plan)
        network = _cut(model, plan, record, trust=trust)
        _share(network, record["shared"])
        _check_fit(network, weights)
        _fill(network, weights)
    remember(network, plan)
    before, after = (Counts(params, macs) for params, macs in zip(record["params"], record["macs"], strict=True))
    backend = record["backend"] if model is not None else "graph"
    notes = ("the proof is the one that was recorded when it was saved",) * (record.get("verified") is not None)
    if isinstance(network, PrunedGraph) and not has_train_mode(network):
        notes += (EVAL_ALONE,)
    return Pruned(network.eval(), backend, _proof(record), before, after, notes=notes, example_inputs=_inputs(record))


def _proof(record: Mapping[str, Any]) -> Verification | None:
    """What the record says was proven when the network was cut; nothing is computed again."""
    error = record.get("verified")
    return None if error is None else Verification(error, TOLERANCE)


def _cut(model: nn.Module, plan: Plan, record: Mapping[str, Any], *, trust: bool) -> nn.Module:
    if record["backend"] == "module" and not plan.islands:
        return prune_module(model, plan.keep, plan.replaced, plan.indices, plan.numbers, plan.shortened)
    inputs = _inputs(record)
    size = sum(t.numel() * t.element_size() for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor))
    if size > _LARGEST_INPUTS and not trust:
        raise PlanError(
            f"The artifact was made with inputs of {size:,} bytes, which tracing your network again would take; "
            "use trust=True if that is right."
        )
    return apply(model, plan, inputs, backend=record["backend"], verify=False).model  # its weights come from the file


def read_plan(folder: str | Path) -> Plan:
    """Reads the plan of an artifact alone."""
    return Plan.from_dict(_read(Path(folder))["plan"])


def read_inputs(folder: str | Path) -> ExampleInputs:
    """What an artifact's network is called with: tensors of the recorded shapes and types that hold no numbers."""
    return _inputs(_read(Path(folder)), "meta")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PLAN
    if not path.exists():
        raise InputError(f"There is no artifact in {folder}: {PLAN} is missing. Pruned.save(folder) writes one.")
    record = read_json(path, PlanError)
    if not isinstance(record, dict) or record.get("artifact_format") != FORMAT:
        got = record.get("artifact_format") if isinstance(record, dict) else None
        raise PlanError(f"{path} has artifact format {str(got)[:40]!r}; this Secateur reads format {FORMAT}.")
    for key, kind in _FIELDS.items():
        if not isinstance(record.get(key), kind):
            raise PlanError(f"{path} is damaged: {key!r} is {type(record.get(key)).__name__}, not {kind.__name__}.")
    if record["backend"] not in ("module", "graph"):
        raise PlanError(f"{path} is damaged: there is no back end {record['backend'][:40]!r}, but module and graph.")
    if not all(isinstance(v, str) for v in (*record["shared"].values(), *record["sha256"].values())):
        raise PlanError(f"{path} is damaged: 'shared' and 'sha256' hold something else than texts.")
    for key in ("params", "macs"):
        if len(record[key]) != 2 or not all(type(n) is int and 0 <= n < 2**63 for n in record[key]):
            raise PlanError(f"{path} is damaged: {key!r} holds something else than two sizes, before and after.")
    error = record.get("verified")
    if error is not None and not (type(error) in (int, float) and 0 <= error < float("inf")):
        raise PlanError(f"{path} is damaged: 'verified' is no error of a proof.")
    return record


_FIELDS = {"backend": str, "plan": dict, "shared": dict, "sha256": dict, "inputs": dict, "macs": list, "params": list}


def _inputs(record: Mapping[str, Any], device: str = "cpu") -> ExampleInputs:
    try:
        found: ExampleInputs = like(record["inputs"], device)
    except Exception as error:  # whatever stands there
        raise PlanError(f"{PLAN} is damaged: its record of the inputs is none ({first_line(error)}).") from error
    return found


def _weights(folder: Path, name: str, digests: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / name
    if not path.exists():
        raise WeightsError(f"{path} is missing; the artifact is not complete.")
    check_header(path)
    _same_digest(path, digests)
    return read_safetensors(path)


def _same_digest(path: Path, digests: Mapping[str, Any]) -> None:
    if file_digest(path, WeightsError) != digests.get(path.name):
        raise WeightsError(f"{path} does not have the digest that {PLAN} records: it was damaged or exchanged.")


def _load_graph(folder: Path, record: Mapping[str, Any], weights: Mapping[str, Tensor], *, trust: bool) -> nn.Module:
    path = folder / GRAPH
    if not path.exists():
        raise InputError(
            f"{folder} holds no self-contained graph ({GRAPH}); give the dense network, "
            "load(folder, model=YourNetwork()), or save with graph=True."
        )
    data = read_json(path, PlanError, largest=_LARGEST_GRAPH)
    _same_digest(path, record["sha256"])
    tensors = {**_weights(folder, CONSTANTS, record["sha256"]), **weights}
    for name, first in record["shared"].items():
        if first not in tensors:
            raise PlanError(
                f"{folder / PLAN} is damaged: {str(name)[:80]!r} shares {first[:80]!r}, which is not there."
            )
        tensors[name] = tensors[first]
    try:
        module = from_json(data, tensors)
        _share(module, record["shared"])
        if not trust:
            try_out(module, _inputs(record, "meta"))
    except PlanError as error:
        raise PlanError(f"{path} cannot be loaded: {error}") from error
    return module


def _same_shapes(model: nn.Module, plan: Plan) -> None:
    """The fresh network has to be the dense one that the plan was made for."""
    own = {n: tuple(t.shape) for n, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    for name, shape in plan.dense_shapes.items():
        if name in own and own[name] != shape:
            raise PlanError(f"The plan was made for {name!r} of shape {shape}; in the given network it is {own[name]}.")


def _share(model: nn.Module, shared: Mapping[str, str]) -> None:
    """Makes tensors that have two names one again (a traced graph keeps two).

    Raises:
        PlanError: A name is not that of a tensor of the network, or the two have other shapes.
    """
    own = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    for name, first in shared.items():
        if name not in own or first not in own or own[name].shape != own[first].shape:
            raise PlanError(
                f"The record says that {name[:80]!r} is the tensor {first[:80]!r}, which the network does not have so."
            )
        (path, _, leaf), (home, _, original) = name.rpartition("."), first.rpartition(".")
        setattr(model.get_submodule(path), leaf, getattr(model.get_submodule(home), original))


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies the weights in place, so that tensors with two names stay shared."""
    own = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
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
