"""The examples run and say what the documentation says of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import secateur
from secateur.graph.ops import OPERATORS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_custom_operator(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        runpy.run_path(str(EXAMPLES / "custom_operator.py"), run_name="__main__")
    finally:
        OPERATORS.remove("garden.scaled_swish")  # or other tests in this process find its rule there
    out = capsys.readouterr().out
    assert "garden.scaled_swish.default in (top level) (no rule for this operator)" in out
    assert "With the rule: Pruned(1,044 → 524 parameters" in out


def test_every_public_name_is_there() -> None:
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None
    with pytest.raises(AttributeError, match="prun"):
        _ = secateur.prun
