"""The page of `secateur inspect --html`: what it says of a network is what a cut would leave, and names stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("jinja2")

import secateur
from latency_cases import arithmetic, chain  # noqa: F401 (a fixture)
from secateur.budget.curves import Curve
from secateur.core.errors import InputError, TraceError, UnknownNameError
from secateur.graph.outline import Part
from secateur.report.flowchart import flowchart, section_of
from secateur.report.parts import NetworkPart, parts_of
from tiny_networks import Blocks, Tiny
from zoo import Lambda, conv

X = torch.randn(2, 1, 12, 12)


class Attributes(HTMLParser):
    """Names of all attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}


def saved(found: secateur.report.inspection.Inspection, tmp_path: Path, **options: Any) -> str:  # type: ignore[name-defined]
    return found.save_html(tmp_path / "page.html", **options).read_text()


def planned(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text.partition('id="planned">')[2].partition("</script>")[0])
    return found


# ---------------------------------------------------------------------------------------------------------- parts


def test_parts_say_what_layers_cost_and_which_group_they_are_of() -> None:
    analysis = secateur.analyse(Tiny().eval(), X)
    parts = parts_of(analysis)
    layers = {part.name: part for part in parts if part.part is Part.LAYER}
    counts = secateur.count(Tiny().eval(), X)
    assert [(p.name, p.params, p.macs, p.channels) for p in layers.values()] == [
        (c.name, c.params, c.macs, c.out_channels) for c in counts.layers
    ]
    stream = layers["stem"].groups
    assert len(stream) == 1
    assert layers["block.3"].groups == stream != layers["block.0"].groups
    (join,) = (part for part in parts if part.part is Part.JOIN)
    assert (join.operator, join.groups) == ("add", stream)
    assert layers["linear"].pinned
    assert "an output of the network" in layers["linear"].reason
    assert not any(part.reason for part in layers.values() if not part.pinned)


def test_a_layer_that_is_left_alone_and_one_of_which_only_some_channels_may_go() -> None:
    kept = parts_of(secateur.analyse(Tiny().eval(), X, ignore="wide"))
    wide = next(part for part in kept if part.name == "wide")
    assert wide.pinned
    assert "what ignore and only keep" in wide.reason
    some = Lambda(lambda m, x: (y := m.a(x))[:, :2] + m.b(y[:, 2:]), a=conv(3, 6), b=conv(4, 2))
    parts = parts_of(secateur.analyse(some.eval(), torch.randn(2, 3, 8, 8)))
    first = next(part for part in parts if part.name.startswith("a"))
    assert (first.channels, first.free) == (6, 4)
    assert "an output of the network" in first.reason


def test_recurrent_layers_cost_what_the_totals_have_of_them() -> None:
    net = Lambda(lambda m, x: m.out(m.lstm(x)[0]), lstm=nn.LSTM(3, 8, batch_first=True), out=nn.Linear(8, 2)).eval()
    found = parts_of(secateur.analyse(net, torch.randn(2, 5, 3)))
    assert sum(part.macs for part in found) == secateur.count(net, torch.randn(2, 5, 3)).macs
    assert next(part for part in found if part.operator == "lstm").channels == 8


# -------------------------------------------------------------------------------------------------------- picture


def test_a_result_that_skips_rows_has_a_lane_of_its_own() -> None:
    def part(kind: Part, *sources: int, name: str = "") -> NetworkPart:
        return NetworkPart(kind, name, "op", sources)

    parts = [part(Part.INPUT), part(Part.LAYER, 0, name="a"), part(Part.LAYER, 1, name="b"), part(Part.JOIN, 1, 2),
             part(Part.LAYER, 3, name="c"), part(Part.JOIN, 1, 4), part(Part.OUTPUT, 5)]  # fmt: skip
    chart = flowchart(parts)
    assert len(chart.rows) == len(parts)
    straight = [edge.source for edge in chart.edges if "Q" not in edge.path]
    assert straight == [0, 1, 2, 3, 4, 5]
    (skip,) = (edge for edge in chart.edges if "Q" in edge.path)  # to two readers, in one lane
    assert (skip.source, skip.path.count("M"), skip.path.count("Q")) == (1, 2, 3)
    assert chart.height == sum(row.height for row in chart.rows)


def test_lanes_that_are_taken_at_once_differ_and_stay_narrow() -> None:
    many = 40
    parts = [NetworkPart(Part.LAYER, f"layer{k}", "linear", tuple(range(k))) for k in range(many)]
    chart = flowchart(parts)
    lanes = [match[1] for edge in chart.edges if (match := re.match(r"M\S+ \S+?Q(\S+) ", edge.path))]
    assert len(lanes) == len(set(lanes)) == many - 2
    assert chart.width < 90
    assert min(map(float, lanes)) >= 7


def test_sections_hold_several_layers_and_joins_stay_in_them() -> None:
    names = ("features.0.0", "features.1.a", "features.1.b", "features.1", "classifier")
    kinds = (Part.LAYER, Part.LAYER, Part.LAYER, Part.JOIN, Part.LAYER)
    chart = flowchart([NetworkPart(kind, name, "op") for kind, name in zip(kinds, names, strict=True)])
    assert [row.label for row in chart.rows] == ["features.0.0", "features.1", "a", "b", "op", "classifier"]
    assert [row.number for row in chart.rows] == [0, -1, 1, 2, 3, 4]
    assert section_of("blocks.3.attn.qkv") == "blocks.3"


# ----------------------------------------------------------------------------------------------------------- page


def test_the_page_is_whole_and_says_what_is_not_known(tmp_path: Path) -> None:
    found = secateur.inspect(Blocks().eval(), X, name="blocks")
    text = saved(found, tmp_path, command=["secateur", "prune", "blocks"])
    assert "accuracy is left is not known before a cut is tried" in text
    assert "No latency was measured" in text
    assert not re.search(r'(src|href)="|url\((?!#)', text)
    assert "None" not in text
    assert "NaN" not in text.partition('id="planned"')[0]
    assert len(text) < 200_000  # no charts, so no Plotly
    table = text.partition("All planned points")[2].partition("</details>")[0]
    assert table.count("<tr>") == sum(len(cuts) + 1 for cuts in found.plans.values())
    assert 'class="macs pinned' in text
    assert "stays: it is an output of the network" in text


def test_what_the_slider_shows_is_what_was_planned(tmp_path: Path) -> None:
    found = secateur.inspect(Blocks().eval(), X)
    plans = planned(saved(found, tmp_path, command=["secateur", "prune", "my net"]))
    assert [plan["scope"] for plan in plans] == ["local", "global"]
    for plan in plans:
        cuts = found.plans[plan["scope"]]
        assert [point["widths"] for point in plan["points"]] == [[str(w) for w in cut.widths] for cut in cuts]
        half = cuts[plan["start"]]
        assert abs(half.macs / cuts[0].macs - 0.5) <= 0.1
        assert plan["points"][0]["command"] == ""
        assert plan["points"][1]["command"].startswith("secateur prune 'my net' --macs ")
        assert ("--scope global" in plan["points"][1]["command"]) == (plan["scope"] == "global")


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    evil = "<script>alert(1)<﹤script>\"' onload=x"
    net = nn.Sequential()
    net.add_module(evil, nn.Linear(4, 8))
    net.add_module("b</script>", nn.Linear(8, 2))
    x = torch.randn(8, 4)
    curves = secateur.sensitivity(net, x, data=x, ratios=(0.5,))
    text = saved(secateur.inspect(net, x, name=evil, sensitivity=curves), tmp_path, command=["secateur", evil])
    for name in (evil, "b</script>"):
        assert name not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    assert text.count("<script") == 5  # figures, Plotly, what draws them; plans, what shows them
    parser = Attributes()
    parser.feed(text)
    assert "onload" not in parser.names
    assert "data-group" in parser.names


def test_curves_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    model, x = chain(8, 8)
    data = torch.randn(8, 3, 8, 8)
    curves = secateur.sensitivity(model, x, data=data, ratios=(0.25, 0.5))
    found = secateur.inspect(model, x, sensitivity=curves)
    text = saved(found, tmp_path)
    assert 'data-figure="curves"' in text
    assert 1_000_000 < len(text) < 1_500_000
    assert "Time, estimated" not in text


def test_times_are_shown_where_a_runtime_was_named(arithmetic: Callable[..., str], tmp_path: Path) -> None:  # noqa: F811
    model, x = chain(16, 16)
    text = saved(secateur.inspect(model, x, runtime=arithmetic(), round_to=2), tmp_path)
    assert "Time, estimated" in text
    assert "No latency was measured" not in text
    for point in planned(text)[0]["points"][1::4]:  # this runtime takes as long as its MACs say
        work, time = (
            float(point["figures"][name].partition("(")[2].partition(" %")[0]) for name in ("macs", "latency")
        )
        assert time == pytest.approx(work, rel=0.02)


def test_equal_scores_give_no_plan_across_layers() -> None:
    model, x = chain(8, 8)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    found = secateur.inspect(model, x)
    assert list(found.plans) == ["local"]
    assert any("scores of all units of a group are equal" in note for note in found.notes)


def test_a_network_of_which_nothing_may_go_has_a_page(tmp_path: Path) -> None:
    text = saved(secateur.inspect(nn.Linear(4, 3), torch.zeros(2, 4)), tmp_path, command=["secateur", "prune", "x"])
    assert "Nothing can be pruned" in text
    assert [len(plan["points"]) for plan in planned(text)] == [1]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[: int(x.sum().item())]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scopes": ["globl"]}, UnknownNameError, "global"),
        ({"criterion": "taylor"}, InputError, "taylor"),
        ({"runtime": "onxruntime"}, UnknownNameError, "onnxruntime"),
        ({"runtime": "pytorch", "batch": 0}, InputError, "batch"),
        ({"round_to": 0}, InputError, "round_to"),
        ({"only": "nothing"}, UnknownNameError, "nothing"),
    ],
)
def test_bad_arguments_are_answered(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        secateur.inspect(*chain(8, 8), **options)


def test_other_curves_and_untraceable_networks_are_refused() -> None:
    model, x = chain(8, 8)
    curves = secateur.Sensitivity((Curve("elsewhere", (), 8, (2,), (0.1,)),))
    with pytest.raises(InputError, match="curves of another network: 'elsewhere'"):
        secateur.inspect(model, x, sensitivity=curves)
    with pytest.raises(TraceError):
        secateur.inspect(Broken(), x)
