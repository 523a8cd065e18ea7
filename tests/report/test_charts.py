from __future__ import annotations

import json

import pytest

from secateur.report import Curve, CurvePoint, Results, charts


def test_curves_of_both_networks(results: Results) -> None:
    figure = charts.curves(results, "top1")
    assert figure is not None
    lines = [(t["name"], t["line"]["color"], t["line"]["dash"], t["showlegend"]) for t in figure["data"]]
    assert lines == [
        ("dense", "$dense", "solid", True),
        ("dense", "$dense", "dot", False),
        ("pruned", "$pruned", "solid", True),
        ("pruned", "$pruned", "dot", False),
    ]
    assert figure["data"][0]["y"] == [80.0, 81.0, 82.0]  # validation


def test_missing_and_infinite_points_are_left_out() -> None:
    points = (
        CurvePoint(epoch=1, validation={"loss": 2.0}),
        CurvePoint(epoch=2),
        CurvePoint(epoch=3, validation={"loss": float("inf")}),
        CurvePoint(epoch=4, validation={"loss": 1.0}),
    )
    results = Results(curves=(Curve(label="a", points=points),))
    figure = charts.curves(results, "loss")
    assert figure is not None
    assert [(t["x"], t["y"]) for t in figure["data"]] == [([1, 4], [2.0, 1.0])]
    assert charts.curves(results, "top1") is None


def test_times_have_their_spread(results: Results) -> None:
    figure = charts.times(results)
    assert figure is not None
    dense = figure["data"][0]
    assert dense["x"] == [11.0, 91.0, 6.0]
    assert dense["error_x"]["array"] == pytest.approx([0.9, 0.9, 0.0])
    assert figure["layout"]["xaxis"]["type"] == "log"
    assert figure["layout"]["yaxis"]["ticktext"][-1] == "PyTorch<br>forward, batch 1"


def test_names_are_not_read_as_markup() -> None:
    evil = "<b>&</b>"
    results = Results(curves=(Curve(label=evil, points=(CurvePoint(epoch=1, validation={"top1": 1.0}),)),))
    figure = charts.curves(results, "top1")
    assert figure is not None
    assert figure["data"][0]["name"] == "&lt;b&gt;&amp;&lt;/b&gt;"


def test_figures_are_json(results: Results) -> None:
    for figure in (charts.curves(results, "loss"), charts.times(results)):
        assert json.loads(json.dumps(figure, allow_nan=False))["data"]
