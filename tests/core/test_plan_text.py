"""Plans from strangers, as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from secateur.core.errors import PlanError
from secateur.core.plan import Plan

EMPTY: dict[str, Any] = {"format": 1, "keep": {}, "dense_shapes": {}}


def nested(depth: int) -> dict[str, Any]:
    plan = EMPTY
    for _ in range(depth):
        plan = EMPTY | {"parts": [plan]}
    return plan


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"format": 1, "format": 2}', "[" + "9" * 5000 + "]"]
)
def test_texts_that_were_made_to_harm(text: str) -> None:
    with pytest.raises(PlanError, match=r"^The plan ") as error:
        Plan.from_json(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [2, 400])
def test_parts_within_parts_are_refused(depth: int) -> None:
    with pytest.raises(PlanError, match="parts of their own"):
        Plan.from_dict(nested(depth))
    with pytest.raises(PlanError, match="parts of their own"):
        Plan.from_json(json.dumps(nested(2)))


def test_numbers_beyond_all_numbers() -> None:
    with pytest.raises(PlanError, match="damaged"):
        Plan.from_json('{"format": 1, "keep": {"w": {"0": [1e999]}}, "dense_shapes": {"w": [3]}}')
