"""Penalties in the settings of a step that trains."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, model_validator
from torch import nn

from secateur.core.errors import InputError, nearest
from secateur.core.types import ExampleInputs
from secateur.recipe.schema import Settings
from secateur.sparsity import PENALTIES, Penalty

__all__ = ["PenaltySettings"]


class PenaltySettings(Settings):
    """A penalty and its settings, which are the arguments of its class: ``{name: bn_l1, weight: 1e-4}``.

    Attributes:
        name: In the registry of penalties.
    """

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Writes the defaults out; the class itself says what is wrong with a value."""
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, Mapping) or "name" not in data:
            raise InputError(f"a penalty is written {{name: bn_l1, weight: 1e-4}}; got {data!r:.60}")
        kind = PENALTIES[str(data["name"])]
        known = {n: p.default for n, p in inspect.signature(kind).parameters.items()}
        given = {key: value for key, value in data.items() if key != "name"}
        unknown = next((key for key in given if key not in known), None)
        if unknown is not None:
            close = nearest(str(unknown), known)
            offer = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
            raise InputError(f"{unknown} is not a setting of {data['name']}. {offer}")
        if isinstance(given.get("weight"), str):  # YAML reads 1e-4 as text: it wants 1.0e-4
            given["weight"] = _number(given["weight"])
        try:
            kind(**given)
        except TypeError as error:
            raise InputError(f"{data['name']} cannot use {given!r:.80}: {error}") from error
        return {"name": data["name"], **known, **given}

    def make(self, model: nn.Module, inputs: ExampleInputs) -> Penalty:
        """The penalty, bound to the network.

        Raises:
            InputError: It meets no parameter of the network.
        """
        return PENALTIES[self.name](**(self.model_extra or {})).bind(model, inputs)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"weight should be a number; got {text!r}") from error
