"""What the files of a run must look like before anything in them is used: they may be damaged, or a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.core.errors import DataError
from secateur.core.files import read_json

__all__ = [
    "LARGEST",
    "REMEDY",
    "ComparisonPlan",
    "CutRecord",
    "DataPrint",
    "Environment",
    "RayRecord",
    "RunState",
    "SplitPrint",
    "StepRecord",
    "checked",
    "problem",
    "read_record",
]

REMEDY = "Bring it back from a copy, or start the run again."

LARGEST = 16 * 2**20
"""Bytes of one of these files; even the classes of the largest data sets take less."""

M = TypeVar("M", bound=BaseModel)

# A name that can be joined to a folder and stays in it.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[str, Field(max_length=100_000)]


class _Record(BaseModel):
    # Keys that a later version adds are let be.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class SplitPrint(_Record):
    """What one split of a data set was.

    Attributes:
        samples: How many; 0 where a loader does not say.
        labels: SHA-256 of the labels in order.
        content: SHA-256 of the pixels in order, or of the files where they are decoded as they are asked for.
    """

    samples: int
    labels: Sha256
    content: Sha256


class DataPrint(_Record):
    """What a data set was when a run began, see `secateur.recipe.fingerprint`."""

    classes: list[str]
    shape: list[int]
    splits: dict[str, SplitPrint]


class RunState(_Record):
    """``state.json``: how far a run is, and what it began with.

    Attributes:
        format: Of the folder.
        recipe_sha256: Of ``recipe.yaml``.
        home: Working directory in which the run was started.
        done: Names of the finished steps, in order.
        data: The data set; runs of earlier versions did not note it.
        inputs: SHA-256 of the weights files that the network began with, by their role in the recipe.
        files: SHA-256 of what the finished steps wrote, by step and file name.
    """

    format: int
    recipe_sha256: Sha256
    home: Annotated[str, Field(max_length=4096)]
    done: list[Name]
    data: DataPrint | None = None
    inputs: dict[str, Sha256] = Field(default_factory=dict)
    files: dict[Name, dict[Name, Sha256]] = Field(default_factory=dict)


class _Machine(_Record):
    model_config = ConfigDict(extra="allow")

    threads: Annotated[int, Field(ge=1, le=1024)]


class Environment(_Record):
    """``environment.json``: what a run was started with and on, for the report."""

    command: Short
    created: Short
    data: Short
    seeds: dict[str, int]
    machine: _Machine
    metrics: list[dict[str, str | int | None]]
    unit: Annotated[str, Field(max_length=100)]
    notes: list[Short] = []


class _Epoch(_Record):
    model_config = ConfigDict(extra="allow")

    step: str
    epoch: int | None = None


class _Quality(_Record):
    model_config = ConfigDict(extra="allow")

    samples: int


class _Result(_Record):
    summary: dict[str, Any]
    report: dict[str, Any]
    epochs: list[_Epoch]
    evaluations: dict[str, _Quality]


class StepRecord(_Record):
    """``result.json`` of a step: what it found out, and how long it took."""

    seconds: Annotated[float, Field(ge=0)]
    result: _Result


class CutRecord(_Record):
    """``cut.json`` of a step that cut: which back end did it, and what was kept."""

    backend: str
    plan: dict[str, Any]


class RayRecord(_Record):
    """The cluster that a comparison's jobs run on, see `secateur.jobs.Ray`."""

    address: Annotated[str, Field(max_length=300)]
    cpus: Annotated[float, Field(gt=0, le=4096)]
    gpus: Annotated[float, Field(ge=0, le=4096)]
    parallel: Annotated[int, Field(ge=1, le=10_000)] | None = None


class ComparisonPlan(_Record):
    """``comparison.json``: which jobs a comparison has and what is said of it."""

    format: int
    jobs: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    parallel: Annotated[int, Field(ge=1, le=4096)]
    home: Annotated[str, Field(max_length=4096)]
    facts: dict[str, Short]
    metrics: list[dict[str, str | int | None]]
    unit: Annotated[str, Field(max_length=100)]
    data: DataPrint | None = None
    ray: RayRecord | None = None
    log: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _once(self) -> ComparisonPlan:
        if len(set(self.jobs)) != len(self.jobs):
            raise ValueError("a job is named twice")
        return self


def read_record(path: Path, model: type[M], *, largest: int = LARGEST) -> tuple[M, dict[str, Any]]:
    """Reads a file of a run: checked, and as it stands in the file.

    Raises:
        DataError: It is missing, no plain file, too large or damaged; the message names it and what is wrong.
    """
    try:
        value = read_json(path, largest=largest)
    except DataError as error:
        raise DataError(f"{error} {REMEDY}") from error
    return checked(model, value, path), value


def checked(model: type[M], value: Any, path: Path) -> M:
    """Checks plain data.

    Raises:
        DataError: Names the first thing that is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {problem(error)}. {REMEDY}") from error


def problem(error: ValidationError) -> str:
    """The first thing that is wrong, in words.

    >>> try:
    ...     ComparisonPlan.model_validate({"format": "1"})
    ... except ValidationError as error:
    ...     problem(error)
    "format should be a valid integer; got '1'"
    """
    item = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:60] for part in item["loc"]) or "it"
    if item["type"] == "missing":
        return f"{where} is missing"
    words = item["msg"].removeprefix("Input ").removeprefix("Value error, ").removeprefix("String ")
    return f"{where} {words}; got {_short(item.get('input'))}"


def _short(value: Any) -> str:
    """A value in a few characters; a large one is not written out whole first."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    return repr(value[:60]) if isinstance(value, str) else f"{value!r:.60}"
