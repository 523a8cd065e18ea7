"""Words for what is wrong in a recipe file: the line, the setting, what was got, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from secateur.core.errors import nearest
from secateur.core.yamltree import Place, YamlTree

__all__ = ["check", "dotted"]

M = TypeVar("M", bound=BaseModel)
_Fault = Mapping[str, Any]


def check(
    model: type[M], value: Any, place: Place, tree: YamlTree, problems: list[str], also: Iterable[str] = ()
) -> M | None:
    """Validates ``value``; says what is wrong with it in ``problems``, each with its place in the file.

    Args:
        model: The class of the settings.
        value: Plain data.
        place: Where it stands in ``tree``.
        tree: The parsed file.
        problems: Gets one sentence a problem, none twice.
        also: Further keys that are known beside those of ``model``.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found: dict[Place, list[tuple[str, str]]] = {}
        for loc, item in _closest([(_written(value, e), e) for e in error.errors(include_url=False)]):
            found.setdefault((*place, *loc), []).append(_explain(item, [*also, *_fields(model, loc[:-1])]))
        for inner, words in found.items():  # several at one place: none of the alternatives fits
            said = f"{', or'.join(phrase for phrase, _ in words)}{words[0][1]}"
            name, where = dotted(inner), tree.where(inner)
            # An option's own text names the setting already: `--set steps.prune.ratio should be …`.
            known = where.endswith(f" {name}") or (where.startswith("--") and " " not in where)
            problem = f"{where if known else f'{where}: {name}'}{said}"
            problems += [problem] if problem not in problems else []
        return None


def _written(value: Any, item: Mapping[str, Any]) -> Place:
    """Where the fault stands in what was written, without what pydantic adds to tell alternatives of a union apart."""
    loc: Place = item["loc"]
    place: Place = ()
    for part in loc:
        inside = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
        if part in inside:
            place, value = (*place, part), inside[part]
    return (*place, *loc[-1:]) if item["type"] == "missing" else place


def _closest(faults: list[tuple[Place, _Fault]]) -> list[tuple[Place, _Fault]]:
    """The faults without those of alternatives that were not meant: of another type than what was written."""

    def meant(place: Place, item: _Fault) -> bool:
        others = [(p, i) for p, i in faults if p[: len(place)] == place and i is not item]
        return not item["type"].endswith("_type") or all(p == place and i["type"].endswith("_type") for p, i in others)

    return [fault for fault in faults if meant(*fault)]


def dotted(place: Place) -> str:
    """Words for a place, as `--set` takes it: the step's kind stands for its position.

    >>> dotted(("steps", 1, "prune", "ratio")), dotted(("steps", 1, "iterate", "steps", 0, "prune", "ratio"))
    ('steps.prune.ratio', 'steps.prune.ratio')
    """
    if place[:1] == ("steps",) and place[2:4] == ("iterate", "steps") and len(place) > 5:
        place = ("steps", *place[4:])
    parts = [str(part) for part in place if not (isinstance(part, int) and place[0] == "steps")]
    return ".".join(parts)


def _explain(item: Mapping[str, Any], known: list[str]) -> tuple[str, str]:
    """What is wrong, to follow a setting's name: a phrase, and the end of the sentence."""
    key, got, kind = str(item["loc"][-1] if item["loc"] else ""), item.get("input"), item["type"]
    end = f"; got {got!r:.60}."
    if kind == "extra_forbidden":
        close = nearest(key, known)
        offer = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
        return f" is not a setting. {offer}", ""
    if kind == "missing":
        return " is missing", "."
    if kind == "value_error":
        said = str(item["ctx"]["error"]).rstrip(".")
        return f": {said}", "" if said.endswith("?") else "."
    if kind == "literal_error":
        allowed = [part.strip("' ") for part in item["ctx"]["expected"].replace(" or ", ", ").split(",")]
        close = nearest(str(got), allowed, 1)
        one = f" should be one of {', '.join(allowed)}" if len(allowed) > 1 else f" should be {allowed[0]}"
        return one, f"{end} Did you mean {close[0]}?" if close else end
    words = {
        "model_type": "should be a mapping of settings",
        "dict_type": "should be a mapping",
        "too_short": "should not be empty",
        "string_pattern_mismatch": "may hold letters, digits and _ . - only",
    }
    message = words.get(kind) or re.sub(r"^(Input|String|Value error,) ", "", item["msg"])
    return f" {message.rstrip('.')}", end


def _fields(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """Names of the settings at ``loc`` inside ``model``."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        nested = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        models = [a for a in nested if issubclass(a, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
