"""The page of a sensitivity: its chart holds the curves, and names from anywhere stay text."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from secateur import Sensitivity
from secateur.budget.curves import Curve
from secateur.core.metric import TOP1, Metric
from secateur.report.sensitivity import MOST_NAMED, curves_chart, write_sensitivity


def sensitivity(count: int = 3, metric: Metric = TOP1, name: str = "layer{}", dense: float = 90.0) -> Sensitivity:
    curves = tuple(
        Curve(name.format(k), (), 8, (2, 4, 6), tuple(dense * (1 - removed * (k + 1) / 100) for removed in (1, 2, 3)))
        for k in range(count)
    )
    return Sensitivity(curves, metric, dense, target={"macs": 0.5}, chosen={c.name: 0.375 for c in curves})


def test_lines_begin_at_the_whole_network_and_marks_lie_on_them() -> None:
    found = sensitivity()
    *lines, marks = curves_chart(found)["data"]
    for curve, line in zip(found.curves, lines, strict=True):
        assert line["x"] == [0.0, 25.0, 50.0, 75.0]
        assert line["y"] == [90.0, *curve.values]
    assert marks["x"] == [37.5] * 3
    assert marks["y"] == pytest.approx([(line["y"][1] + line["y"][2]) / 2 for line in lines])
    assert len({line["line"]["color"] for line in lines}) == 3


def test_shares_are_shown_in_percent_and_many_groups_without_a_legend() -> None:
    share = Metric(better="higher", format="share", name="mIoU")
    figure = curves_chart(sensitivity(MOST_NAMED + 1, share, dense=0.5))
    assert figure["data"][0]["y"][0] == 50.0
    assert figure["layout"]["yaxis"]["title"]["text"] == "miou, %"
    assert not any(trace["showlegend"] for trace in figure["data"])
    assert all(trace["showlegend"] for trace in curves_chart(sensitivity())["data"])


def test_the_page_is_whole_and_escapes_names(tmp_path: Path) -> None:
    path = write_sensitivity(sensitivity(name="<script>{}"), tmp_path / "s.html", "a <b> network")
    text = path.read_text()
    assert "<script>0" not in text
    assert html.escape("a <b> network") in text
    assert "http://" not in text.partition("<script>")[0]
    figures = json.loads(text.partition('id="figures">')[2].partition("</script>")[0])
    assert len(figures["curves"]["data"]) == 4
    assert "Ratios for 50% of the MACs" in text


def test_without_curves_there_is_a_page_too(tmp_path: Path) -> None:
    assert "Numbers" in write_sensitivity(Sensitivity(()), tmp_path / "s.html", "net").read_text()
