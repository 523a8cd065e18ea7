"""Results are short when they are printed, and names from a file can do nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import secateur
from secateur.core.tables import Table, plain
from secateur.exports.checks import ExportCheck

NASTY = "a<img src=x onerror=alert(1)>&\x1b[2J\n"


def network(layers: int = 2) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 3))


def test_an_analysis_prints_its_groups_and_no_tensors() -> None:
    found = secateur.analyse(network(), torch.randn(2, 8))
    assert str(found).splitlines() == [
        "2 groups of 16 units that can be removed",
        "Group  Units  Cut together with",
        "0          8",
        "2          8",
    ]
    assert repr(found) == "Analysis(2 groups of 16 units that can be removed)"
    assert "<td" in found._repr_html_()
    assert len(str(secateur.analyse(network(40), torch.randn(2, 8))).splitlines()) == 33
    assert "… and 10 more" in str(secateur.analyse(network(40), torch.randn(2, 8)))


def test_counts_and_plans() -> None:
    small = secateur.prune(network(), torch.randn(2, 8), ratio=0.5)
    assert repr(small.after) == "Counts(71 parameters, 60 MACs a sample, 3 layers with weights)"
    assert str(small.after).splitlines()[:2] == [
        "71 parameters, 60 MACs a sample, 3 layers with weights",
        "Layer  Operator  Outputs  Parameters  MACs",
    ]
    assert "\n" not in repr(small.plan)
    lines = str(small.plan).splitlines()
    assert lines[1].split() == ["Tensor", "Dimension", "Entries", "Kept"]
    assert lines[2].split()[1:] == ["0", "8", "4"]


def test_an_export_check() -> None:
    check = ExportCheck("onnx", "small.onnx", 2_000_000, 1e-7, 1e-4, 1.0, 32, (1, 2), True, "onnxruntime 1.22",
                        quality={"top1": 97.5}, scored=360)  # fmt: skip
    assert repr(check) == "ExportCheck(onnx, float32, checked in onnxruntime 1.22)"
    assert "same labels         100.0% of 32 samples" in str(check)
    assert "97.5 on 360 samples" in check._repr_html_()
    assert "int8 (from 64 samples)" in str(replace(check, calibration=64, snr_db=31.0))


def test_names_from_a_file_are_escaped() -> None:
    plan = secateur.Plan({NASTY: {0: (0,)}}, {NASTY: (2,)}, removed=(NASTY,))
    for text in (str(plan), repr(plan), plan._repr_html_()):
        assert "\x1b" not in text
        assert plain(NASTY) in text or "&lt;img src=x" in text
    assert "<img" not in plan._repr_html_()
    table = Table(NASTY, (NASTY,), [(NASTY,)], notes=(NASTY,))
    assert "<img" not in table.html
    assert "\x1b" not in str(table) + table.html
