"""The report and the page of `secateur inspect --html` in a real browser: widths, light, dark, no scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("jinja2")

import secateur
from browser import SCHEMES, WIDTHS, browser, looked_at
from secateur.report import Results, write_report
from secateur.report.schema import LayerRow, Point, ScaleRow, Scales, Stage
from tiny_networks import Blocks

pytestmark = pytest.mark.slow

LONG = "a_module_with_a_very_long_name.of_several_parts.that_no_column_of_a_phone_has_room_for.conv"


def wide(results: Results) -> Results:
    """A report with every part, and more columns than fit."""
    layers = (
        *results.layers,
        *(LayerRow(layer=f"{LONG}{k}", kind="conv2d", before=64, after=64 - k) for k in range(30)),
    )
    points = tuple(
        Point(label=f"after round {k}, channels and heads", params=10**6 // k, nonzero_params=10**6 // k,
              macs=10**8 // k, value=90.0 - k, netscore=80.0 + k, quality={"top1": 90.0 - k, "top5": 99.0, "loss": 0.3},
              widths={f"{LONG}{n}": 64 - k for n in range(3)})
        for k in range(1, 6)
    )  # fmt: skip
    stages = tuple(
        Stage(step=f"0{k}-fine-tune", role=role, quality={"top1": 88.0 + k, "top5": 99.0, "loss": 0.31})
        for k, role in enumerate(("dense", "pruned", "control"))
    )
    quantiles = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
    rows = tuple(ScaleRow(epoch=e, small=0.1 * e, quantiles=quantiles, high=1.0, counts=(e, 3, 2, 1)) for e in range(3))
    scales = (Scales(label="bn_l1", step="01-adapt", rows=rows),)
    return results.model_copy(update={"layers": layers, "points": points, "stages": stages, "scales": scales})


def inspected(folder: Path) -> Path:
    """A page with streams, a pinned layer, curves of groups, and notes."""
    net, x = Blocks().eval(), torch.randn(4, 1, 12, 12)
    named = nn.Sequential()
    named.add_module("a_module_with_a_very_long_name_that_no_phone_has_room_for", net)
    curves = secateur.sensitivity(named, x, data=x, ratios=(0.25, 0.5))
    found = secateur.inspect(named, x, name="<b>blocks</b>", sensitivity=curves)
    return found.with_note("a note").save_html(folder / "inspect.html", command=["secateur", "prune", "my nets:build"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


KNOWN: dict[str, dict[str, dict[str, Any]]] = {}


@pytest.fixture
def found(scheme: str, folder: Path, results: Results) -> dict[str, dict[str, Any]]:
    """What the browser sees; it is started once for each scheme."""
    browser()
    if scheme not in KNOWN:
        pages = {"report": write_report(wide(results), folder / "report.html"), "inspect": folder / "inspect.html"}
        if not pages["inspect"].exists():
            inspected(folder)
        KNOWN[scheme] = looked_at(pages, scheme, folder)
    assert not [f"{title}: {page['failed']}" for title, page in KNOWN[scheme].items() if "failed" in page]
    return KNOWN[scheme]


PAGES = [f"{name} {width}" for name in ("report", "inspect") for width in WIDTHS]
BARE = ["report without scripts", "inspect without scripts"]


@pytest.mark.parametrize("page", [*PAGES, *BARE])
def test_the_scheme_is_followed_and_nothing_is_wider_than_the_window(
    found: dict[str, dict[str, Any]], scheme: str, page: str
) -> None:
    assert found[page]["dark"] == (scheme == "dark")
    assert found[page]["wider"] <= 0


@pytest.mark.parametrize("page", PAGES)
def test_charts_are_drawn_and_nothing_goes_wrong(found: dict[str, dict[str, Any]], page: str) -> None:
    assert found[page]["problems"] == []
    charts = found[page]["charts"]
    assert charts
    for name, marks, width in charts:
        assert marks > 0, name
        assert width > 250, name


@pytest.mark.parametrize("page", [*PAGES, *BARE])
def test_text_can_be_read(found: dict[str, dict[str, Any]], page: str) -> None:
    assert [words for ratio, words in found[page]["contrasts"] if ratio < 4.5] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(" 390")])
def test_first_columns_stay_in_view_where_a_table_is_scrolled(found: dict[str, dict[str, Any]], page: str) -> None:
    tables = [(words, moved) for words, moved in found[page]["scrolled"] if moved is not None]
    assert tables
    assert [words for words, moved in tables if abs(moved) > 2] == []


@pytest.mark.parametrize("page", BARE)
def test_without_scripts_there_are_headline_and_tables(found: dict[str, dict[str, Any]], page: str) -> None:
    bare = found[page]
    assert bare["problems"] is None  # no script ran
    with_scripts = found[page.replace("without scripts", "390")]
    assert bare["headline"] == with_scripts["headline"] != []
    assert bare["tables"] >= with_scripts["tables"]
    assert not bare["slid"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_shows_what_the_tables_hold(found: dict[str, dict[str, Any]], width: int) -> None:
    points = found[f"inspect {width}"]["slid"]
    assert {point["scope"] for point in points} == {"local", "global"}
    for point in points:
        (row,) = point["row"]
        assert row[0] == point["kept"]
        assert row[1:] == [figure.partition(" (")[0] for figure in point["figures"]]
    first = next(point for point in points if point["kept"] == "100 %")
    assert first["command"] == ""
    half = next(point for point in points if point["kept"] == "50 %")
    assert half["command"].startswith("secateur prune 'my nets:build' --macs ")
    assert half["widths"] != first["widths"]
    assert "NaN" not in found[f"inspect {width}"]["text"]
    assert "undefined" not in found[f"inspect {width}"]["text"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_costs_is_sorted_by_what_is_clicked(found: dict[str, dict[str, Any]], width: int) -> None:
    macs = [int(text.replace(",", "")) for text in found[f"inspect {width}"]["sorted"]]
    assert len(macs) == 10
    assert macs == sorted(macs, reverse=True)


def test_what_is_wrong_with_a_page_is_seen(tmp_path: Path) -> None:
    browser()
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        '<!doctype html><html><head><meta charset="utf-8"></head><body style="background: #fff">'
        '<p style="color: #999; width: 2000px">pale and wide</p><p>readable</p><div data-figure="none"></div>'
        '<div class="scroll" style="width: 200px; overflow-x: auto"><table><thead><tr><th>wide</th></tr></thead><tbody>'
        '<tr><th>first</th><td><div style="width: 900px">more</div></td></tr></tbody></table></div>'
        '<script>console.error("said"); fetch("https://nowhere.invalid/x").catch(() => {}); undefinedName()</script>'
    )
    seen = looked_at({"wrong": wrong}, "light", tmp_path)["wrong 390"]
    assert seen["wider"] > 1500
    assert [words for ratio, words in seen["contrasts"] if ratio < 4.5] == ["p: pale and wide"]
    assert seen["contrasts"][0][0] == pytest.approx(2.85, abs=0.01)
    assert seen["charts"] == [["none", 0, 374]]
    assert seen["scrolled"][0][1] < -100
    assert seen["problems"][0] == "said"
    assert "undefinedName" in seen["problems"][-1]
