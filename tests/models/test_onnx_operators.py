"""Every operator of ONNX that is read, beside ONNX Runtime on random input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onnx_cases import CASES, Case, file_of
from secateur.core.errors import SecateurError
from secateur.models.onnx_file import read_onnx
from secateur.models.onnx_file.registry import OPERATORS
from secateur.models.onnx_file.running import distance, results

OF_SIZES = {"Shape", "Size", "ConstantOfShape", "Range", "Not", "And", "Or", "Xor"}
"""Tried in test_onnx_sizes.py: what makes sizes, and logic."""
REFUSED = {"ReverseSequence", "Compress", "Unique", "NonZero", "NonMaxSuppression"}


@pytest.mark.parametrize("case", CASES, ids=[f"{k}-{case.title}" for k, case in enumerate(CASES)])
def test_it_computes_what_onnx_runtime_does(case: Case, tmp_path: Path) -> None:
    network = read_onnx(file_of(case, tmp_path))
    inputs = [torch.randn(t.shape) if t.is_floating_point() else t for t in network.example_inputs]
    with torch.no_grad():
        found = network(*inputs)
    wanted = results(network.source.content, network.given, inputs)
    for a, b in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
        assert a.dtype == b.dtype
        assert distance(a, b) < 2e-5


def test_every_operator_has_a_case() -> None:
    assert {case.operator for case in CASES} | OF_SIZES | REFUSED == set(OPERATORS)


def test_a_wrong_computation_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = OPERATORS["Tanh"]
    monkeypatch.setitem(OPERATORS, "Sigmoid", wrong)
    with pytest.raises(SecateurError, match="was read wrongly"):
        read_onnx(file_of(Case("Sigmoid", [(2, 3)]), tmp_path))


def test_the_page_lists_them() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/onnx.md").read_text()
    listed = page.partition("<!-- operators -->")[2].partition("<!-- /operators -->")[0]
    found = {name.strip(" .\n") for name in listed.replace("\n", " ").split(",")}
    assert found == {"Constant"} | set(OPERATORS) - REFUSED
