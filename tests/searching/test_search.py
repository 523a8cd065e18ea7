"""Searching: seeds, the front, going on, and what leaves no room."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("jinja2")
pytest.importorskip("optuna")

import secateur
from secateur.cli.main import main
from secateur.core.errors import InputError, UnknownNameError
from secateur.searching import Searched, Tried, search


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def task(seed: int = 0) -> secateur.Task:
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(seed))
    y = network()(x).argmax(1).detach()
    return secateur.Task(
        train=(x[:32], y[:32]), validation=(x[32:64], y[32:64]), test=(x[64:], y[64:]),
        loss=nn.functional.cross_entropy,
        metrics={"right": secateur.Metric(lambda out, y: (out.argmax(1) == y).float().mean(), better="higher")},
    )  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return search(network(), task(), tmp_path_factory.mktemp("search") / "out", trials=12, criteria=["l2", "l1"])


def test_the_front_is_what_nothing_beats_and_each_is_saved(searched: Searched) -> None:
    assert len(searched.trials) + searched.refused == 12
    for one in searched.front:
        assert not any(t.value >= one.value and t.cost < one.cost for t in searched.trials)
        assert one.artifact is not None
        again = secateur.load(one.artifact, network())
        assert again.after.macs == one.cost
        assert one.test.keys() >= {"right"}
    assert [t.cost for t in searched.front] == sorted(t.cost for t in searched.front)
    assert "networks that nothing beats" in str(searched)


def test_the_first_trials_come_from_sensitivity_and_from_equal_ratios(searched: Searched) -> None:
    found = secateur.sensitivity(network(), torch.randn(2, 4), data=task(), ratios=(0.25, 0.5, 0.75, 0.9))
    wanted = found.ratios(macs=0.7)
    assert any(t.ratios == pytest.approx({n: min(wanted.get(n, 0), 0.8) for n in t.ratios}) for t in searched.trials)
    assert any(set(t.ratios.values()) == {0.4} for t in searched.trials)


def test_the_files_hold_it(searched: Searched) -> None:
    told = json.loads((searched.folder / "search.json").read_text())
    assert [t["number"] for t in told["trials"]] == [t.number for t in searched.trials]
    assert told["front"] == [t.number for t in searched.front]
    assert f"trial {searched.front[0].number}" in (searched.folder / "search.html").read_text()


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    heard: list[Tried] = []

    def stop(one: Tried) -> None:
        heard.append(one)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(network(), task(), tmp_path, trials=6, on_trial=stop)
    whole = search(network(), task(), tmp_path, trials=6, on_trial=heard.append)
    assert len(whole.trials) + whole.refused == 6
    assert {t.number: t.cost for t in whole.trials}.items() >= {t.number: t.cost for t in heard[:2]}.items()
    count = len(heard)
    assert search(network(), task(), tmp_path, trials=6, on_trial=heard.append).front == whole.front
    assert len(heard) == count, "nothing is left to try"


def test_a_study_of_another_network_is_refused(searched: Searched) -> None:
    with pytest.raises(InputError, match="is of another search: of another network"):
        search(network(1), task(), searched.folder, criteria=["l2", "l1"])
    with pytest.raises(InputError, match="of another space"):
        search(network(), task(), searched.folder, ratios=(0.1, 0.5), criteria=["l2", "l1"])


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.8, 0.2), (0.1,), (0.0, 1.0), (-0.1, 0.5)])
def test_bounds_without_room(bounds: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="or there is nothing to search"):
        search(network(), task(), tmp_path / "out", ratios=bounds)
    assert not (tmp_path / "out").exists()


def test_other_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="or there is nothing to search; got none"):
        search(network(), task(), tmp_path / "out", criteria=[])
    with pytest.raises(UnknownNameError, match=r"no cost named 'mac'\. Did you mean 'macs'"):
        search(network(), task(), tmp_path / "out", cost="mac")
    with pytest.raises(InputError, match="trials is at least 1; got 0"):
        search(network(), task(), tmp_path / "out", trials=0)
    for storage in ("sqlite:////no/such/folder/study.db", "nonsense"):
        with pytest.raises(InputError, match=r"The storage '.*' cannot be opened: .*like sqlite:///"):
            search(network(), task(), tmp_path / "out", storage=storage)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'^A search needs optuna: pip install "secateur\[search\]"\.$'):
        search(network(), task(), tmp_path / "out")


def test_the_command(
    searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def answer(model: nn.Module, data: object, out: Path, **given: object) -> Searched:
        asked.update(given)
        given["on_trial"](searched.trials[0])  # type: ignore[operator]
        return searched

    monkeypatch.setattr("secateur.cli.commands.searching.run", answer)
    words = ["search", "vgg_digits", "--data", "digits", "--criterion", "l1", "--trials", "2", "--ratios"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "0,50%", "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    assert (asked["ratios"], asked["criteria"], asked["trials"]) == ((0.0, 0.5), ["l1"], 2)
    assert "trial 0: " in said.out
    assert "networks that nothing beats" in said.out
    with pytest.raises(SystemExit) as stopped:
        main([*words, "much", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--ratios are two shares" in capsys.readouterr().err
