"""What a recipe may say: the validated form of a recipe file, and its errors with line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.errors import InputError, UnknownNameError, nearest
from secateur.recipe.yamltree import Place, YamlTree

__all__ = ["DataConfig", "HeadConfig", "ModelConfig", "Recipe", "Settings", "StepEntry", "validate"]

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of everything in a recipe: frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class HeadConfig(Settings):
    """What to do with the network's classifier when it meets a new data set.

    Attributes:
        replace: ``auto`` replaces the head when the number of classes differs or ``hidden`` is given.
        hidden: Width of an added dense layer before the classifier.
        pool: Replace a classifier of several layers (VGG, AlexNet) by global average pooling + linear.
    """

    replace: Literal["auto", "always", "never"] = "auto"
    hidden: int | None = Field(default=None, ge=1)
    pool: bool = False


class ModelConfig(Settings):
    """The network: a name for `secateur.models.create`, a weights file, and its head.

    Attributes:
        name: Built-in name, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
        weights: A ``.safetensors`` or state-dict file, or a pretrained name of torchvision or timm.
        options: Further keyword arguments of the factory.
        head: How the classifier is adapted.
    """

    name: str
    weights: str | None = None
    options: dict[str, Any] = {}
    head: HeadConfig = HeadConfig()


class DataConfig(Settings):
    """The data set: a name or path for `secateur.data.load`.

    Attributes:
        name: Built-in name, ``name:path`` or a path.
        validation: Share of the training images that is held out.
        limit: At most this many images of each split (for a trial).
        image_size: Side in pixels that images of a folder are resized to.
        mean: Mean per channel (in 0..1); by default that of the network's pretrained weights, where they are
            used and it is known, else the data set's own.
        std: Standard deviation per channel, likewise.
    """

    name: str = "digits"
    validation: float = Field(default=0.05, ge=0, lt=1)
    limit: int | None = Field(default=None, ge=1)
    image_size: int | None = Field(default=None, ge=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class StepEntry:
    """One step of a recipe.

    Attributes:
        kind: Name in the registry of steps.
        config: Its settings, an instance of the kind's own class.
    """

    kind: str
    config: Settings


class _Head(Settings):
    """Everything in a recipe but its steps, which each have a class of their own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    model: ModelConfig
    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class Recipe:
    """A validated recipe: what to do, to which network, on which data.

    Attributes:
        name: Short name, used in titles.
        description: One sentence.
        seed: Every random number of the run comes from it.
        model: The network.
        data: The data set.
        steps: What is done, in order.
    """

    name: str
    description: str
    seed: int
    model: ModelConfig
    data: DataConfig
    steps: tuple[StepEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data with every default written out."""
        return {
            "name": self.name,
            "description": self.description,
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            "steps": [{step.kind: step.config.model_dump(mode="json")} for step in self.steps],
        }

    def to_yaml(self) -> str:
        """Returns the recipe as YAML; reading it again gives an equal recipe."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=110)


def validate(tree: YamlTree, kinds: Mapping[str, type[Settings]]) -> Recipe:
    """Checks plain data against the schema.

    Args:
        tree: The parsed file.
        kinds: The known kinds of steps and the class of each one's settings.

    Raises:
        InputError: Names file, line, key, what was got and what is allowed; all problems at once.
    """
    problems: list[str] = []
    top = {key: value for key, value in tree.data.items() if key != "steps"}
    head = _check(_Head, top, (), tree, problems, also=("steps",))
    steps = _check_steps(tree, kinds, problems)
    if problems or head is None:
        raise InputError("\n".join(problems))
    return Recipe(head.name, head.description, head.seed, head.model, head.data, tuple(steps))


def _check_steps(tree: YamlTree, kinds: Mapping[str, type[Settings]], problems: list[str]) -> list[StepEntry]:
    entries = tree.data.get("steps")
    if not isinstance(entries, list) or not entries:
        known = ", ".join(kinds)
        problems.append(f"{tree.where(('steps',))}: steps wants a list of at least one step, of: {known}.")
        return []
    steps = []
    for index, entry in enumerate(entries):
        kind, settings = split_step(entry)
        place: Place = ("steps", index)
        if kind is None:
            problems.append(f"{tree.where(place)}: a step is one name with its settings; got {entry!r:.60}.")
        elif kind not in kinds:
            problems.append(f"{tree.where(place)}: {UnknownNameError('step', kind, kinds)}")
        else:
            config = _check(kinds[kind], settings, (*place, kind), tree, problems)
            steps += [StepEntry(kind, config)] if config is not None else []
    return steps


def split_step(entry: Any) -> tuple[str | None, Any]:
    """Returns the kind and the settings of one item of ``steps``, or ``(None, None)``.

    >>> split_step("measure"), split_step({"prune": {"ratio": 0.1}})
    (('measure', {}), ('prune', {'ratio': 0.1}))
    """
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        kind, settings = next(iter(entry.items()))
        return str(kind), {} if settings is None else settings
    return None, None


def _check(
    model: type[S], value: Any, place: Place, tree: YamlTree, problems: list[str], also: Iterable[str] = ()
) -> S | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found: dict[Place, list[tuple[str, str]]] = {}
        for item in error.errors(include_url=False):
            loc = _field_path(model, item["loc"])
            found.setdefault((*place, *loc), []).append(_explain(item, [*also, *_fields(model, loc[:-1])]))
        for inner, words in found.items():  # several at one place: none of the alternatives fits
            said = f"{', or'.join(phrase for phrase, _ in words)}{words[0][1]}"
            name, where = _dotted(inner), tree.where(inner)
            # An option's own text names the setting already: `--set steps.prune.ratio should be …`.
            known = where.endswith(f" {name}") or (where.startswith("--") and " " not in where)
            problem = f"{where if known else f'{where}: {name}'}{said}"
            problems += [problem] if problem not in problems else []
        return None


def _field_path(model: type[BaseModel], loc: tuple[str | int, ...]) -> Place:
    """``loc`` without what pydantic adds to tell the alternatives of a union apart."""
    for end in range(len(loc) - 1, 0, -1):
        if isinstance(loc[end], str) and not _fields(model, loc[:end]):
            return loc[:end]
    return loc


def _dotted(place: Place) -> str:
    """Words for a place, as `--set` takes it: the step's kind stands for its position."""
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
        return f": {item['ctx']['error']}".rstrip("."), "."
    if kind == "literal_error":
        allowed = [part.strip("' ") for part in item["ctx"]["expected"].replace(" or ", ", ").split(",")]
        close = nearest(str(got), allowed, 1)
        one = f" should be one of {', '.join(allowed)}" if len(allowed) > 1 else f" should be {allowed[0]}"
        return one, f"{end} Did you mean {close[0]}?" if close else end
    words = {
        "model_type": "should be a mapping of settings",
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
