"""Networks inside a wrapper that adds adapters to them (PEFT): what their configuration describes is the inner one."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.core.plan import Place
from secateur.graph.copies import shallow_copy

__all__ = ["Bare", "adapter_notes", "bare", "number_adapters_anew", "ranks_made_true"]


@dataclass(frozen=True)
class Bare:
    """A network without its wrapper and its adapters.

    Attributes:
        network: The network that the configuration describes; tensors are those of the whole.
        paths: Its modules' names in the whole, by their own; ``None`` where they are the same.
        path: The module of the whole that it is, or that wraps it.
    """

    network: nn.Module
    paths: Mapping[str, str] | None = None
    path: str = ""

    def inside(self, numbers: Mapping[Place, Any]) -> dict[Place, Any]:
        """Numbers in places of the whole, by their places in the network; those of adapters are left out."""
        if self.paths is None:
            return dict(numbers)
        own = {full: path for path, full in self.paths.items()}
        return {replace(p, module=own[p.module]): n for p, n in numbers.items() if p.module in own}

    def outside(self, numbers: Mapping[Place, Any]) -> dict[Place, Any]:
        """The other way round; places of modules that the whole has not are left out."""
        if self.paths is None:
            return dict(numbers)
        return {replace(p, module=self.paths[p.module]): n for p, n in numbers.items() if p.module in self.paths}

    def named(self, lists: Mapping[str, Any]) -> dict[str, Any]:
        """What belongs to modules of the whole, by their names in the network."""
        own = {path: path for path in lists} if self.paths is None else {f: p for p, f in self.paths.items()}
        return {own[path]: value for path, value in lists.items() if path in own}


def bare(model: nn.Module, path: str = "") -> Bare:
    """A network as its configuration describes it: without a wrapper that can hand it over, and with plain layers.

    Args:
        model: The network.
        path: Its name in a whole that it is a module of.
    """
    if not callable(getattr(model, "get_base_model", None)):
        names = {n: f"{path}.{n}".rstrip(".") for n, _ in model.named_modules()} if path else None
        return Bare(model, names, path)
    twin: Any = shallow_copy(model)
    names = {id(module): name for name, module in twin.named_modules()}
    inner = twin.get_base_model()
    for name, module in list(inner.named_modules()):
        if name and (layer := _layer(module)) is not None:
            inner.set_submodule(name, layer)
    found = {name: names[id(module)] for name, module in inner.named_modules() if id(module) in names}
    return Bare(inner, {name: f"{path}.{full}".strip(".") for name, full in found.items()}, path)


def _layer(module: Any) -> nn.Module | None:
    """The layer that an adapter was put around, or the trained copy that takes its place."""
    get, copies = getattr(module, "get_base_layer", None), getattr(module, "modules_to_save", None)
    found = get() if callable(get) else None
    if isinstance(copies, nn.ModuleDict) and isinstance(getattr(module, "original_module", None), nn.Module):
        names = [n for n in getattr(module, "active_adapters", ()) if n in copies]
        found = copies[names[0]] if names else module.original_module
    return found if isinstance(found, nn.Module) else None


def number_adapters_anew(pruned: nn.Module, path: str, length: int, kept: Sequence[int]) -> None:
    """Numbers of layers that an adapter's configuration lists become those after a list was shortened.

    Args:
        pruned: A network of one's own; its configurations of adapters are replaced by changed copies.
        path: The list.
        length: How many elements it had.
        kept: Which stay.
    """
    wrappers = [m for m in pruned.modules() if isinstance(vars(m).get("peft_config"), dict)]
    if not wrappers or all(_layer(module) is None for module in pruned.get_submodule(path).modules()):
        return
    made: dict[int, Any] = {}
    new = {old: now for now, old in enumerate(kept)}
    for wrapper in wrappers:
        configs: dict[str, Any] = dict(wrapper.peft_config)  # type: ignore[arg-type]
        for name, config in configs.items():
            listed = getattr(config, "layers_to_transform", None)
            numbers = [listed] if isinstance(listed, int) else list(listed or ())
            if not numbers or max(numbers) >= length:
                continue
            if id(config) not in made:
                made[id(config)] = copy.copy(config)
                made[id(config)].layers_to_transform = [new[n] for n in numbers if n in new]
            configs[name] = made[id(config)]
        wrapper.__dict__["peft_config"] = configs


def adapter_notes(model: nn.Module, lists: Mapping[str, Sequence[int]]) -> list[str]:
    """What has to be said of configurations of adapters that name layers by number, where lists become shorter."""
    numbered = re.compile(r"(^|[.\[(|])\d")
    found = []
    for name, config in dict(getattr(model, "peft_config", None) or {}).items():
        for entry, value in sorted(getattr(config, "__dict__", {}).items()):
            words = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, set, dict)) else []
            if entry in _BY_NAME and any(isinstance(word, str) and numbered.search(word) for word in words):
                found.append(f"{entry} of the adapter {name!r}")
    said = f"{' and '.join(found)} may name layers by their numbers, which are other ones now: put them right before "
    return [f"{said}save_pretrained"] if found and lists else []


_BY_NAME = ("alpha_pattern", "exclude_modules", "modules_to_save", "rank_pattern", "target_modules",
            "target_parameters")  # fmt: skip
"""Entries of configurations of adapters that hold names of modules."""


def ranks_made_true(pruned: nn.Module) -> None:
    """Ranks of adapters that the cut made smaller, in their layers and their configuration; what they add is the same.

    An adapter adds α/r · B·A (α/√r, where it is asked for), so α becomes what leaves that factor as it was.

    Args:
        pruned: A network of one's own; its layers and its configurations of adapters are changed.
    """
    configs = next((c for m in pruned.modules() if isinstance(c := vars(m).get("peft_config"), dict)), {})
    for name, config in configs.items():
        ranks = {path: rank for path, m in _below(pruned) if (rank := _rank(m, name)) is not None}
        layers = {path: m for path, m in _below(pruned) if path in ranks}
        if not any(layers[path].r[name] != rank for path, rank in ranks.items()):
            continue
        alphas = {}
        for path, rank in ranks.items():
            own = layers[path].scaling[name] * (rank**0.5 if getattr(config, "use_rslora", False) else rank)
            layers[path].r[name] = rank
            layers[path].lora_alpha[name] = alphas[path] = own
        config.r, config.rank_pattern = _in_common(ranks)
        config.lora_alpha, config.alpha_pattern = _in_common(alphas)


def _below(model: nn.Module) -> list[tuple[str, Any]]:
    """Modules by the names that the network below a wrapper has for them."""
    get: Any = getattr(model, "get_base_model", None)
    inner = get() if callable(get) else model
    return list(inner.named_modules())


def _rank(module: Any, name: str) -> int | None:
    """The rank of a layer's adapter of that name; ``None`` where it has none."""
    if not all(isinstance(getattr(module, entry, None), dict) for entry in ("r", "scaling", "lora_alpha")):
        return None
    for held in ("lora_A", "lora_embedding_A"):
        found = getattr(module, held, {})
        if name in found:
            return int(getattr(found[name], "weight", found[name]).shape[0])
    return None


def _in_common(values: Mapping[str, float]) -> tuple[Any, dict[str, Any]]:
    """The value that most have, and those of the others by their names."""
    most = Counter(values.values()).most_common(1)[0][0]
    return most, {path: value for path, value in values.items() if value != most}
