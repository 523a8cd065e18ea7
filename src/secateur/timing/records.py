"""Frozen records that go to JSON and come back the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from secateur.core.errors import InputError

__all__ = ["Record"]


class Record:
    """Adds ``to_json`` and ``from_json`` to a frozen dataclass."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as data that :mod:`json` can write."""
        data: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Builds the record again from what :meth:`to_json` gave.

        Raises:
            InputError: When a field is unknown, missing or of the wrong type.
        """
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        if unknown := sorted(set(data) - set(known)):
            raise InputError(f"{cls.__name__} has no {', '.join(unknown)}; its fields are {', '.join(known)}.")
        try:
            return TypeAdapter(cls).validate_python(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{cls.__name__}.{where} cannot be read: {first['msg']}.") from error
