"""The plan: which indices of which parameter dimensions stay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.fx import GraphModule
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from secateur.core import arguments
from secateur.core.errors import PlanError, first_line
from secateur.core.reading import parse_json
from secateur.core.tables import Shown, Table

__all__ = ["Place", "Plan", "Scaled", "dense_name", "forget", "remember", "remembered"]

FORMATS = (1, 2, 3, 4, 5)
"""1: kept indices; 2: residual branches may be removed as well; 3: buffers of numbers that point at channels are
renumbered; 4: so are sizes in attributes; 5: parts of a network are cut by themselves, and lists of modules become
shorter. A plan is written in the lowest that holds it."""

Step = tuple[str, str | int]
"""``("attribute", name)``, ``("item", key)``, ``("closure", name)`` or ``("argument", position or name)``."""

_STEPS = ("attribute", "item", "closure", "argument")


@dataclass(frozen=True)
class Place:
    """Where an object of a network keeps a number.

    Attributes:
        module: Name of the module.
        steps: The way from there.
    """

    module: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        """As one would write it.

        >>> str(Place("blocks.0", (("attribute", "window"), ("item", 1))))
        'blocks.0.window[1]'
        """
        text = self.module
        for kind, name in self.steps:
            text += f"[{name!r}]" if kind in ("item", "argument") else f".{name}"
        return text.lstrip(".")

    def to_json(self) -> list[Any]:
        """Plain data.

        >>> Place.from_json(Place("a", (("attribute", "heads"),)).to_json())
        Place(module='a', steps=(('attribute', 'heads'),))
        """
        return [self.module, *([kind, name] for kind, name in self.steps)]

    @classmethod
    def from_json(cls, data: Any) -> Place:
        """Reads :meth:`to_json`'s form; raises ``ValueError`` for anything else."""
        module, *steps = data
        known = all(kind in _STEPS and type(name) in (str, int) for kind, name in steps)
        if not (isinstance(module, str) and steps and known):
            raise ValueError(f"{str(data)[:80]} is no place of a number")
        return cls(module, tuple((kind, name) for kind, name in steps))


@dataclass(frozen=True)
class Scaled:
    """Entries of a cut tensor that are multiplied, to make up for a factor that the network computes from a size.

    Attributes:
        dim: Their dimension.
        entries: Their positions in the cut tensor.
        factor: What they are multiplied by.
    """

    dim: int
    entries: tuple[int, ...]
    factor: float

    def after_cut(self, kept: Sequence[int] | None) -> Scaled:
        """The same when a further cut keeps only some positions of the dimension."""
        if kept is None:
            return self
        places = {old: new for new, old in enumerate(kept)}
        return Scaled(self.dim, tuple(places[e] for e in self.entries if e in places), self.factor)


@arguments.checked
@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Kept indices, never dropped ones; only dimensions that lose entries are listed.

    Attributes:
        keep: Parameter or buffer name → dimension → kept indices in ascending order.
        dense_shapes: Shape before the cut of every tensor in ``keep``.
        provenance: How it came about (criterion, ratio or target, scope, versions …).
        parts: The plans that it was composed of, each in the indices of the network before it; a network that
            was pruned in several steps is cut again step by step.
        removed: Names of the residual branches that go whole, in the order of execution.
        replaced: Modules that stand for removed branches, and what takes their place (``identity``, ``relu``);
            empty where the branches have no modules of their own.
        indices: New values of buffers of whole numbers that point at channels of which some go.
        numbers: New values of numbers in attributes of modules: sizes that change, and what is computed from them.
        scaled: Entries of tensors that are multiplied, one after the other, by the tensor's name.
        islands: Submodules whose code could not say the new sizes, and that became graphs.
        shortened: Elements that stay of lists of modules, by the list's name; the others are numbered anew, in order.
        alone: Submodules that were traced and cut by themselves, each with what it is called with in the network;
            empty where the network was traced whole.

    >>> plan = Plan({"fc.weight": {0: (0, 2)}}, {"fc.weight": (3, 5)})
    >>> Plan.from_json(plan.to_json()) == plan
    True
    >>> plan
    Plan(1 tensor cut, fc.weight: 2 of 3)
    """

    keep: Mapping[str, Mapping[int, tuple[int, ...]]]
    dense_shapes: Mapping[str, tuple[int, ...]]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Plan, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[Place, float] = field(default_factory=dict)
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)
    islands: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    shortened: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that indices are ascending, in range and never none at all."""
        for name, dims in self.keep.items():
            shape = self.dense_shapes.get(name)
            if shape is None:
                raise PlanError(f"The plan cuts {name!r} but does not give its dense shape.")
            for dim, kept in dims.items():
                _check(name, dim, kept, shape)

    def index_map(self, name: str, dim: int) -> tuple[int, ...]:
        """Where every entry of a dense dimension is after the cut, −1 where it is gone.

        Raises:
            PlanError: The plan does not cut this dimension (nothing moves then).

        >>> Plan({"fc.weight": {0: (0, 2)}}, {"fc.weight": (3, 5)}).index_map("fc.weight", 0)
        (0, -1, 1)
        """
        kept = self.keep.get(name, {}).get(dim)
        if kept is None:
            raise PlanError(f"The plan does not cut dimension {dim} of {name!r}: every entry stays where it is.")
        places = {old: new for new, old in enumerate(kept)}
        return tuple(places.get(old, -1) for old in range(self.dense_shapes[name][dim]))

    def table(self) -> Table:
        """Every dimension that is cut."""
        cuts = [(name, dim, len(kept)) for name, dims in self.keep.items() for dim, kept in dims.items()]
        rows = [(n, f"{d}", f"{self.dense_shapes[n][d]:,}", f"{kept:,}") for n, d, kept in cuts]
        first = f", {cuts[0][0]}: {rows[0][3]} of {rows[0][2]}" if cuts else ""
        gone = f", branches removed: {', '.join(self.removed)}" if self.removed else ""
        tensors = f"{len(self.keep)} tensor{'s' * (len(self.keep) != 1)} cut"
        notes = [f"in {len(self.parts)} steps"] if self.parts else []
        return Table(f"{tensors}{first}{gone}", ("Tensor", "Dimension", "Entries", "Kept"), rows, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        keep = {n: {str(d): list(k) for d, k in dims.items()} for n, dims in self.keep.items()}
        shapes = {n: list(s) for n, s in self.dense_shapes.items()}
        plain = {
            "format": self._format,
            "keep": keep,
            "dense_shapes": shapes,
            "provenance": dict(self.provenance),
        }
        gone: dict[str, Any] = {"removed": list(self.removed), "replaced": dict(self.replaced)} if self.removed else {}
        if self.indices:
            gone["indices"] = {name: list(numbers) for name, numbers in self.indices.items()}
        if self.numbers:
            gone["numbers"] = [[place.to_json(), number] for place, number in self.numbers.items()]
        if self.islands:
            gone["islands"] = list(self.islands)
        if self.shortened:
            gone["shortened"] = {path: list(kept) for path, kept in self.shortened.items()}
        if self.alone:
            gone["alone"] = list(self.alone)
        if self.scaled:
            gone["scaled"] = {
                name: [[s.dim, list(s.entries), s.factor] for s in several] for name, several in self.scaled.items()
            }
        return plain | gone | ({"parts": [p.to_dict() for p in self.parts]} if self.parts else {})

    @property
    def _format(self) -> int:
        """The lowest that holds it."""
        if self.alone or self.shortened or any(part.alone for part in self.parts):
            return 5
        if self.numbers or self.scaled or self.islands:
            return 4
        return 3 if self.indices else 2 if self.removed else 1

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Reads :meth:`to_dict`'s form; raises :class:`PlanError` on anything else."""
        if not isinstance(data, dict) or data.get("format") not in FORMATS:
            got = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(f"This is not a plan of format 1 to 5 (got {got!r}); newer plans need a newer Secateur.")
        try:
            keep = {str(n): {int(d): tuple(map(int, k)) for d, k in dims.items()} for n, dims in data["keep"].items()}
            shapes = {str(n): tuple(map(int, s)) for n, s in data["dense_shapes"].items()}
            if any(isinstance(part, dict) and part.get("parts") for part in data.get("parts", ())):
                raise PlanError("The plan is damaged: its parts have parts of their own.")  # `after` lists all in one
            parts = tuple(cls.from_dict(part) for part in data.get("parts", ()))
            removed = _names(data.get("removed", []))
            replaced = {str(path): str(kind) for path, kind in dict(data.get("replaced", {})).items()}
            indices = {str(n): tuple(map(int, v)) for n, v in dict(data.get("indices", {})).items()}
            numbers = {Place.from_json(place): _number(number) for place, number in data.get("numbers", ())}
            scaled = {
                str(n): tuple(_scaled(*s) for s in several) for n, several in dict(data.get("scaled", {})).items()
            }
            return cls(keep, shapes, dict(data.get("provenance", {})), parts, removed, replaced, indices, numbers,
                       scaled, _names(data.get("islands", [])), _names(data.get("alone", [])),
                       {str(n): _kept_elements(k) for n, k in dict(data.get("shortened", {})).items()})  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"The plan is damaged: {type(error).__name__}: {first_line(error)}.") from error

    @classmethod
    @arguments.checked
    def from_json(cls, text: str) -> Plan:
        """Reads JSON text; raises :class:`PlanError` where it is damaged."""
        return cls.from_dict(parse_json(text, "The plan", PlanError))

    def after(self, first: Plan) -> Plan:
        """The single plan that equals ``first`` and then this one (which counts in the cut network's indices)."""
        own = self._by_dense_names(first.shortened) if first.shortened else self
        keep: dict[str, dict[int, tuple[int, ...]]] = {n: dict(d) for n, d in first.keep.items()}
        shapes = {**own.dense_shapes, **first.dense_shapes}
        for name, dims in own.keep.items():
            for dim, kept in dims.items():
                earlier = keep.setdefault(name, {}).get(dim)
                keep[name][dim] = tuple(earlier[i] for i in kept) if earlier is not None else kept
        for name in own.keep:
            if name not in first.dense_shapes:
                shapes[name] = own.dense_shapes[name]
        parts = (*(first.parts or (first,)), *(self.parts or (self,)))
        removed, replaced = (*first.removed, *own.removed), {**first.replaced, **own.replaced}
        indices, numbers = {**first.indices, **own.indices}, {**first.numbers, **own.numbers}
        scaled = {
            name: tuple(s.after_cut(own.keep.get(name, {}).get(s.dim)) for s in several)
            for name, several in first.scaled.items()
        }
        for name, several in own.scaled.items():
            scaled[name] = (*scaled.get(name, ()), *several)
        islands = tuple(dict.fromkeys((*first.islands, *own.islands)))
        shortened = {**first.shortened, **own.shortened}
        for path in first.shortened.keys() & own.shortened.keys():
            shortened[path] = tuple(first.shortened[path][k] for k in own.shortened[path])
        return Plan(keep, {n: shapes[n] for n in keep}, self.provenance, parts, removed, replaced, indices, numbers,
                    scaled, islands, shortened=shortened)  # fmt: skip

    def _by_dense_names(self, shortened: Mapping[str, tuple[int, ...]]) -> Plan:
        """This plan by the names that everything had before lists became shorter."""

        def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
            return {dense_name(name, shortened): value for name, value in table.items()}

        numbers = {Place(dense_name(p.module, shortened), p.steps): n for p, n in self.numbers.items()}
        removed, islands = (
            tuple(dense_name(n, shortened) for n in names) for names in (self.removed, self.islands)
        )  # fmt: skip
        return replace(self, keep=renamed(self.keep), dense_shapes=renamed(self.dense_shapes), removed=removed,
                       replaced=renamed(self.replaced), indices=renamed(self.indices), numbers=numbers,
                       scaled=renamed(self.scaled), islands=islands, shortened=renamed(self.shortened))  # fmt: skip


def dense_name(name: str, shortened: Mapping[str, Sequence[int]]) -> str:
    """What something was called before lists became shorter.

    >>> dense_name("layers.1.mlp.weight", {"layers": (0, 3)})
    'layers.3.mlp.weight'
    """
    for path, kept in sorted(shortened.items(), key=lambda item: item[0].count(".")):  # lists around others first
        if name.startswith(f"{path}."):
            number, dot, rest = name.removeprefix(f"{path}.").partition(".")
            if not number.isdecimal() or int(number) >= len(kept):
                raise PlanError(f"The plan keeps {len(kept)} elements of {path!r}, and {name!r} is in none of them.")
            name = f"{path}.{kept[int(number)]}{dot}{rest}"
    return name


def _names(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(name, str) and name for name in data):
        raise ValueError(f"{str(data)[:60]} is no list of names")
    return tuple(data)


def _kept_elements(data: Any) -> tuple[int, ...]:
    kept = tuple(data) if isinstance(data, list) and all(type(k) is int for k in data) else ()
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= LARGEST:
        raise ValueError(f"{str(data)[:60]} are no elements of a list, in order")
    return kept


LARGEST = 2**31
"""No size of a tensor is larger."""


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < abs(value) < LARGEST:
        raise ValueError(f"{str(value)[:40]} is no size")
    return value  # type: ignore[no-any-return]


def _scaled(dim: Any, entries: Any, factor: Any) -> Scaled:
    if not (type(dim) is int and 0 <= dim < 8 and type(factor) is float and 0 < abs(factor) < float("inf")):
        raise ValueError(f"{str((dim, factor))[:60]} is no dimension and factor")
    return Scaled(dim, tuple(map(int, entries)), factor)


def _check(name: str, dim: int, kept: Sequence[int], shape: tuple[int, ...]) -> None:
    if not 0 <= dim < len(shape):
        raise PlanError(f"The plan cuts dimension {dim} of {name!r}, whose shape is {shape}.")
    if not kept:
        raise PlanError(f"The plan keeps nothing of dimension {dim} of {name!r}; at least one index has to stay.")
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= shape[dim]:
        raise PlanError(
            f"The plan's indices for dimension {dim} of {name!r} are not ascending within 0…{shape[dim] - 1}."
        )


ATTRIBUTE = "secateur_plan"
"""Attribute in which a network that Secateur returns (never the user's own) carries its plan."""


_KNOWN: WeakKeyDictionary[nn.Module, tuple[str, Plan]] = WeakKeyDictionary()
"""Plans that were read from their text before."""


def remember(model: nn.Module, plan: Plan) -> None:
    """Writes a plan on a pruned network, so that it and later cuts count in the indices of the first network.

    It is written as text, so that a file of the whole network (``torch.save(model)``) needs nothing of Secateur. Deep
    copies and pickles keep it; a traced graph forgets plain attributes when it is copied, unless it is told to keep
    them.
    """
    text = plan.to_json()
    object.__setattr__(model, ATTRIBUTE, text)
    if isinstance(model, GraphModule):
        model.meta.setdefault(_USER_PRESERVED_ATTRIBUTES_KEY, {})[ATTRIBUTE] = text
    _KNOWN[model] = text, plan


def forget(model: nn.Module) -> None:
    """Takes the plan off a network that becomes part of another one, which has the plan of both."""
    vars(model).pop(ATTRIBUTE, None)
    if isinstance(model, GraphModule):
        model.meta.get(_USER_PRESERVED_ATTRIBUTES_KEY, {}).pop(ATTRIBUTE, None)


def remembered(model: nn.Module) -> Plan | None:
    """The plan of a network that was pruned, ``None`` for any other.

    Raises:
        PlanError: What is written there is no plan.
    """
    text = getattr(model, ATTRIBUTE, None)
    if not isinstance(text, str):
        return None
    known = _KNOWN.get(model)
    if known is None or known[0] != text:
        known = _KNOWN[model] = text, Plan.from_json(text)
    return known[1]
