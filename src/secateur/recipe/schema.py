"""What a recipe may say: the validated form of a recipe file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from secateur.core.yamltree import Place

__all__ = [
    "ITERATE",
    "DataConfig",
    "HeadConfig",
    "ModelConfig",
    "Ratio",
    "Recipe",
    "RecipeHead",
    "Settings",
    "Share",
    "StepEntry",
    "as_list",
    "ratio_in_words",
    "split_step",
]

ITERATE = "iterate"
"""The entry of a recipe that stands for rounds of steps."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A share that is removed."""

Ratio = Share | Annotated[dict[str, Share], Field(min_length=1)]
"""The same share of everything, or one by layer name or pattern."""


class Settings(BaseModel):
    """Base of everything in a recipe: frozen, and a key that nobody knows is an error.

    Attributes:
        spread: Settings that an ``iterate`` spreads over its rounds, each the share that is ``removed`` or
            ``kept`` in the end.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)

    @classmethod
    def resolved(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as they are written, with what is in files in the place of their names.

        A run keeps these: it goes on when the file has changed, or is not there any more.
        """
        return dict(settings)


_SHOWN = 6
"""Ratios of layers that a sentence names one by one."""


def ratio_in_words(ratio: float | Mapping[str, float], what: str, digits: int = 0) -> str:
    """What a ratio removes; of many layers the least and the most.

    >>> ratio_in_words(0.5, "units of every group"), ratio_in_words({"conv1": 0.5, "layer1.*": 0.25}, "units")
    ('50% of the units of every group', '50% (conv1) and 25% (layer1.*) of the units')
    """
    shares = ratio if isinstance(ratio, Mapping) else {"": ratio}
    if len(shares) > _SHOWN:
        least, most = min(shares.values()), max(shares.values())
        return f"{least:.{digits}%} to {most:.{digits}%}, by layer, of the {what}"
    *first, last = [f"{share:.{digits}%}{f' ({name})' if name else ''}" for name, share in shares.items()]
    return f"{', '.join(first)}{' and ' if first else ''}{last} of the {what}"


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
        name: Built-in name, ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME`` or ``package.module:factory``.
        weights: A ``.safetensors`` or state-dict file, or a pretrained name of torchvision or timm.
        options: Further keyword arguments of the factory.
        adapted: A ``.safetensors`` file with all weights of the network, its head included, as an ``adapt`` step
            of an earlier run left them.
        head: How the classifier is adapted.
        given: Whether the network was handed over from Python; ``name`` is then that of its class.
    """

    name: str
    weights: str | None = None
    options: dict[str, Any] = {}
    adapted: str | None = None
    head: HeadConfig = HeadConfig()
    given: bool = False


class TaskConfig(Settings):
    """The task: ``detection``, or a name with options, ``{name: my_package.tasks:Prices, split: spring}``.

    Attributes:
        name: Of :data:`secateur.task.registry.TASKS`, or ``package.module:MyTask`` for a class of the user's.
        given: Whether the task was handed over from Python; ``name`` is then what it calls itself.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "classification"
    given: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What its class is made with."""
        return dict(self.model_extra or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class DataConfig(Settings):
    """The data set: a name or path for `secateur.data.load`.

    Attributes:
        name: Built-in name, ``name:path`` or a path; by default what is embedded for the task.
        validation: Share of the training images that is held out.
        limit: At most this many images of each split (for a trial).
        image_size: Side in pixels that images of a folder are resized to.
        mean: Mean per channel (in 0..1); by default that of the network's pretrained weights, where they are
            used and it is known, else the data set's own.
        std: Standard deviation per channel, likewise.
    """

    name: str | None = None
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
        place: Where it stands in the recipe's file, for messages.
    """

    kind: str
    config: Settings
    place: Place = field(default=(), compare=False, repr=False)


def as_list(value: Any) -> Any:
    """One thing, a list of them or nothing, as a list."""
    return [] if value is None else value if isinstance(value, list | tuple) else [value]


class RecipeHead(Settings):
    """Everything in a recipe but its steps, which each have a class of their own.

    Attributes:
        use: Plug-ins that the recipe wants: modules, or ``.py`` files (see :mod:`secateur.core.plugins`).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    description: str = ""
    use: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(as_list)] = ()
    seed: int = Field(default=0, ge=0, lt=2**32)
    model: ModelConfig
    task: Annotated[TaskConfig, BeforeValidator(_named)] = TaskConfig()
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
        task: What is done with it.
        steps: What is done, in order.
        use: The plug-ins that it wants.
        origin: The file that says which network it is; ``None`` where the user said so, or Secateur.
    """

    name: str
    description: str
    seed: int
    model: ModelConfig
    data: DataConfig
    steps: tuple[StepEntry, ...]
    use: tuple[str, ...] = ()
    task: TaskConfig = field(default_factory=TaskConfig)
    origin: Path | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data with every default written out."""
        return {
            "name": self.name,
            "description": self.description,
            **({"use": list(self.use)} if self.use else {}),
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            **({} if self.task == TaskConfig() else {"task": self.task.model_dump(mode="json")}),
            "data": self.data.model_dump(mode="json"),
            "steps": [{step.kind: step.config.model_dump(mode="json")} for step in self.steps],
        }

    def to_yaml(self) -> str:
        """Returns the recipe as YAML; reading it again gives an equal recipe."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=110)


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
