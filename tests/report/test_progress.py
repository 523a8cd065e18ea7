"""Ridges of scales and the table of points, each against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.core.metric import TOP1, TOP5
from secateur.report import Results, progress, write_report
from secateur.report.schema import LayerRow, Network, Point, ScaleRow, Scales
from secateur.timing import Measurement

QUANTILES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)


def row(epoch: int, high: float, *counts: int) -> ScaleRow:
    return ScaleRow(epoch=epoch, small=0.25, quantiles=QUANTILES, high=high, counts=counts)


@pytest.fixture
def moved() -> Results:
    rows = (row(0, 2.0, 0, 0, 0, 4), row(1, 1.0, 2, 0, 0, 2), row(2, 0.0, 4, 0, 0, 0))
    points = (
        Point(label="dense", params=1000, nonzero_params=1000, macs=5000, value=90.0, netscore=80.0),
        Point(label="<cut>", params=500, nonzero_params=250, macs=2000, value=89.0, netscore=95.5),
    )
    return Results(model="m", data="d", scales=(Scales(label="bn_l1", step="01-adapt", rows=rows),), points=points)


def test_shares_are_kept_when_bins_are_drawn_on_a_wider_axis() -> None:
    shares = progress._shares(row(1, 1.0, 2, 0, 0, 2), 2.0)
    assert len(shares) == progress.BINS == 80
    assert sum(shares) == pytest.approx(1.0)
    # bins of 1/4 on an axis whose bins are 1/40: the first and the fourth cover ten each, with half of the scales
    assert shares[:10] == pytest.approx([0.05] * 10)
    assert shares[30:40] == pytest.approx([0.05] * 10)
    assert sum(shares[10:30]) == pytest.approx(0) == pytest.approx(sum(shares[40:]))


def test_all_at_zero_is_one_peak() -> None:
    assert progress._shares(row(2, 0.0, 4, 0, 0, 0), 2.0)[0] == 1.0


def test_a_ridge_per_epoch_from_top_to_bottom(moved: Results) -> None:
    figure = progress.ridges(moved.scales[0])
    assert figure is not None
    ridges = figure["data"][1::2]
    assert [trace["y"][0] for trace in ridges] == [2, 1, 0]
    assert figure["layout"]["yaxis"]["ticktext"] == ["epoch 2", "epoch 1", "epoch 0"]
    # the peak at zero holds all scales: it is the tallest, and one with 1/20 of them is √(1/20) as tall
    assert ridges[2]["y"][1] == pytest.approx(progress.OVERLAP)
    assert ridges[1]["y"][1] - 1 == pytest.approx(progress.OVERLAP * 0.05**0.5)


def test_many_epochs_show_the_first_the_last_and_some_between() -> None:
    rows = tuple(row(epoch, 1.0, 1, 1) for epoch in range(41))
    figure = progress.ridges(Scales(label="x", rows=rows))
    assert figure is not None
    names = figure["layout"]["yaxis"]["ticktext"]
    assert len(names) == progress.MOST_ROWS
    assert (names[0], names[-1]) == ("epoch 40", "epoch 0")


def test_scales_that_were_all_zero_throughout_have_no_chart() -> None:
    assert progress.ridges(Scales(label="x", rows=(row(0, 0.0, 4, 0),))) is None


def test_points_in_a_table_and_over_their_compression(moved: Results) -> None:
    table = progress.points_table(moved)
    assert table is not None
    assert table.rows[1] == ("<cut>", "500", "250", "4.00×", "2,000", "89.00 %", "95.50")
    figure = progress.points_chart(moved, "netscore")
    assert figure is not None
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([1.0, 4.0], [80.0, 95.5])
    assert figure["data"][0]["customdata"][1][0] == "&lt;cut&gt;"
    assert figure["layout"]["xaxis"]["ticktext"] == ["1×", "1.5×", "2×", "3×"]


def test_one_point_alone_is_no_chart_and_none_no_table(moved: Results) -> None:
    assert progress.points_chart(Results(points=moved.points[:1]), "value") is None
    assert progress.points_table(Results()) is None


def test_the_page_shows_both_and_escapes_names(moved: Results, tmp_path: Path) -> None:
    page = write_report(moved, tmp_path / "report.html").read_text()
    assert "Step by step" in page
    assert "What the penalty moved" in page
    assert "bn_l1 in 01-adapt: median 0.3 → 0.3, below 0.01: 25% → 25%" in page
    assert "&lt;cut&gt;" in page
    assert "<cut>" not in page
    assert "Step by step" not in write_report(Results(), tmp_path / "empty.html").read_text()


def test_compression_counts_from_the_dense_network() -> None:
    """Where the first scored network was cut already, 3.31× stood beside a headline of 3.92×."""
    dense = Network(
        label="Dense",
        role="dense",
        measurement=Measurement(params=1000, nonzero_params=1000, macs=5000, quality={"top1": 90.0, "top5": 99.0}),
    )
    cut = Point(
        label="cut", params=500, nonzero_params=500, macs=2000, value=89.0, quality={"top1": 89.0, "top5": 98.0}
    )
    later = Point(label="again", params=250, nonzero_params=250, macs=900, value=88.0)
    found = Results(networks=(dense,), points=(cut, later), metrics=(TOP1, TOP5))
    table = progress.points_table(found)
    assert table is not None
    assert table.headers == ("", "Parameters", "Not zero", "Compression", "MACs", "Top-1 accuracy", "Top-5 accuracy",
                             "NetScore")  # fmt: skip
    assert [(row[0], row[3], row[6]) for row in table.rows] == [
        ("dense", "1.00×", "99.00 %"),
        ("cut", "2.00×", "98.00 %"),
        ("again", "4.00×", "–"),
    ]
    chart = progress.points_chart(found, "value")
    assert chart is not None
    assert chart["data"][0]["x"] == [1.0, 2.0, 4.0]


def test_widths_of_what_changes_step_by_step() -> None:
    layers = (LayerRow(layer="conv1", before=16, after=4), LayerRow(layer="linear", before=10, after=10))
    points = tuple(
        Point(label=label, params=9, nonzero_params=9, macs=9, value=1.0, widths={"conv1": width, "linear": 10})
        for label, width in (("once", 8), ("twice", 4))
    )
    table = progress.widths_table(Results(layers=layers, points=points))
    assert table is not None
    assert table.headers == ("Layer", "dense", "once", "twice")
    assert table.rows == (("conv1", "16", "8", "4"),)
    assert progress.widths_table(Results(layers=layers, points=points[:1])) is None
    repaired = points[1].model_copy(update={"label": "repaired"})
    assert progress.widths_table(Results(layers=layers, points=(*points, repaired))) == table, "nothing was cut then"
    assert progress.widths_table(Results(layers=layers, points=(points[1], repaired))) is None
