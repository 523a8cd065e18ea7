"""Comparisons: one dense network, parallel jobs, failures and kills that stop nobody else, one table."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("jinja2")
pytest.importorskip("jinja2")

from secateur.core.errors import InputError, SecateurError
from secateur.core.metric import TOP1, TOP5
from secateur.recipe import Recipe, reopen
from secateur.recipe.comparison import (
    Comparison,
    JobEvent,
    Row,
    at_budget,
    compare_recipes,
    is_comparison,
    resume_comparison,
)
from secateur.recipe.comparison import table as comparison_table
from secateur.recipe.comparison.page import COST, SIZE, columns, pareto, quality, write_comparison
from secateur.timing import Timing
from secateur.timing.entrants import Entrant
from secateur.timing.pareto import front

ONE = """\
name: one-shot
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 1}
- prune: {ratio: 0.25}
- finetune: {epochs: 1}
- measure: {processes: 0}
"""
ROUNDS = """\
name: rounds
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 3}
- iterate: {rounds: 2, steps: [prune: {ratio: 0.5, criterion: l1}, finetune: {epochs: 1}]}
"""
WEIGHTS = """\
name: weights
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 2}
- sparsify: {ratio: 0.9}
"""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the jobs' processes too


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("compare")
    for text in (ONE, ROUNDS, WEIGHTS):
        (home / f"{text.split()[1]}.yaml").write_text(text)
    return home


def load(folder: Path, *names: str, **options: object) -> dict[str, Recipe]:
    return at_budget([folder / f"{name}.yaml" for name in names], **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(folder: Path) -> Comparison:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recipes = load(folder, "one-shot", "rounds", "weights", params=0.5)
    return compare_recipes(recipes, folder / "out", jobs=2, budget="50% of the dense parameters")


def test_all_start_from_one_dense_network_and_end_at_equal_parameters(finished: Comparison) -> None:
    assert [row.name for row in finished.rows] == ["dense", "one-shot", "rounds", "weights"]
    assert not finished.failed
    dense, *others = finished.rows
    assert dense.params is not None
    for row in others:
        assert row.params == pytest.approx(0.5 * dense.params, rel=0.02), row.name
        assert row.compression == pytest.approx(2, rel=0.02)
    runs = finished.folder / "runs"
    start = reopen(runs / "dense").state.models["dense"].state_dict()
    for name in ("one-shot", "rounds", "weights"):
        again = reopen(runs / name).state.models["dense"].state_dict()
        assert all(torch.equal(again[key], value) for key, value in start.items()), name


def test_each_recipe_does_what_it_says_and_nothing_that_is_done_for_all(finished: Comparison) -> None:
    steps = {p.name: json.loads((p / "state.json").read_text())["done"] for p in (finished.folder / "runs").iterdir()}
    assert steps == {
        "dense": ["01-adapt"],
        "one-shot": ["01-prune", "02-finetune"],
        "rounds": ["01-prune", "02-finetune", "03-prune", "04-finetune"],
        "weights": ["01-sparsify"],
    }
    assert [row.epochs for row in finished.rows] == [None, 1, 2, 0]


def test_the_row_tells_what_the_run_told(finished: Comparison) -> None:
    row = finished.rows[2]
    results = finished.folder / "runs" / "rounds" / "steps"
    before, after = (
        json.loads((results / name / "result.json").read_text())["result"]["evaluations"]["pruned"]
        for name in ("03-prune", "04-finetune")
    )
    assert (row.before["top1"], row.before["top5"]) == (before["top1"], before["top5"])
    assert row.now["top1"] == pytest.approx(after["top1"])
    assert row.now["top5"] == pytest.approx(after["top5"])
    assert row.flops == 2 * (row.macs or 0) > 0
    assert not finished.rows[3].before, "nothing was fine-tuned after the weights went"
    assert finished.rows[3].macs == finished.rows[0].macs, "zeros are multiplied like any other weight"
    for row in finished.rows:
        assert min(row.forward_ms or 0, row.backward_ms or 0, row.energy_mj or 0, row.weight_bytes or 0) > 0


def test_files_hold_the_same_table(finished: Comparison) -> None:
    assert Comparison.read(finished.folder) == finished
    rows = list(csv.DictReader((finished.folder / "comparison.csv").open()))
    assert [row["name"] for row in rows] == [row.name for row in finished.rows]
    assert [float(row["top1"]) for row in rows] == [row.now["top1"] for row in finished.rows]
    assert rows[0]["top1_before"] == ""
    page = (finished.folder / "comparison.html").read_text()
    assert "50% of the dense parameters" in page
    assert "1 · one-shot" in page
    assert "http://" not in page.partition("<script>")[0], "the page loads nothing"


def test_resuming_a_finished_comparison_starts_nothing(finished: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert resume_comparison(finished.folder) == finished


def test_a_table_that_was_lost_is_measured_again(finished: Comparison, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    (folder / "results.json").unlink()
    events: list[JobEvent] = []
    again = resume_comparison(folder, on_event=events.append)
    assert [(event.what, event.kind) for event in events] == [("done", "")] * 4 + [("begin", "measure")]
    assert [(row.name, row.now["top1"], row.params) for row in again.rows] == [
        (row.name, row.now["top1"], row.params) for row in finished.rows
    ]


def test_a_job_that_fails_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.yaml").write_text(
        ONE.replace("- adapt: {epochs: 1}\n", "").replace("- finetune: {epochs: 1}\n", "")
    )
    good = at_budget([tmp_path / "cut.yaml"])["one-shot"]
    bad = at_budget([tmp_path / "cut.yaml"], sets=["steps.prune.round_to=1000"])["one-shot"]
    events: list[JobEvent] = []
    result = compare_recipes({"good": good, "bad": bad}, tmp_path / "out", jobs=2, on_event=events.append)
    dense, done, failed = result.rows
    assert (dense.failed, done.failed) == ("", "")
    assert done.now["top1"] is not None
    assert dense.params is not None, "without an adapt step, all start from the network as it is"
    assert "round_to=1000" in failed.failed
    assert not failed.now
    assert [event.job for event in events if event.what == "failed"] == ["bad"]
    assert "round_to=1000" in (tmp_path / "out" / "comparison.html").read_text()
    assert is_comparison(tmp_path / "out")


def test_when_the_dense_network_fails_every_row_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.recipe.comparison.run.run_jobs", lambda jobs, **_: {jobs[0].name: "no luck"})
    result = compare_recipes(load(folder, "one-shot"), tmp_path / "out", jobs=1)
    assert result.rows == (Row("one-shot", failed="the dense network could not be adapted: no luck"),)


def command(out: Path, folder: Path) -> list[str]:
    names = [str(folder / f"{name}.yaml") for name in ("one-shot", "rounds", "weights")]
    return [sys.executable, "-m", "secateur", "compare", *names, "--params", "0.5", "--jobs", "2", "--out", str(out)]


def workers(out: Path) -> list[int]:
    """Processes of jobs that run in ``out``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if "secateur.recipe.comparison.worker" in words and any(word.startswith(f"{out}/") for word in words):
                found.append(int(path.parent.name))
    return found


def until(what: object, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes in /proc")
def test_kills_of_a_job_and_of_the_whole_leave_the_same_numbers(
    folder: Path, finished: Comparison, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(out, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: (out / "runs" / "rounds" / "steps" / "02-finetune").exists())
        finally:
            process.kill()
    until(lambda: not workers(out))  # jobs do not outlive their parent

    resumed = [sys.executable, "-m", "secateur", "resume", str(out)]
    with subprocess.Popen(resumed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        until(lambda: workers(out) or process.poll() is not None)
        for worker in workers(out)[:1]:
            os.kill(worker, signal.SIGKILL)
        _, said = process.communicate()
    if process.returncode == 1:  # the job was killed before it was done
        assert b"its process was killed (SIGKILL)" in said
    result = resume_comparison(out)
    assert not result.failed
    then, now = ([(r.name, r.now["top1"], r.params) for r in rows] for rows in (finished.rows, result.rows))
    assert now == then


# ------------------------------------------------------------------------------------------------------ bad input


def test_recipes_that_do_not_go_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(ONE.replace("one-shot", "other").replace("vgg_digits", "resnet_digits"))
    recipes = load(folder, "one-shot") | at_budget([tmp_path / "other.yaml"])
    with pytest.raises(
        InputError, match=r"one-shot and other name vgg_digits and resnet_digits as their model.*--model"
    ):
        compare_recipes(recipes, tmp_path / "out")
    again = at_budget([tmp_path / "other.yaml"], model="vgg_digits", seed=3)
    with pytest.raises(InputError, match="name 0 and 3 as their seed"):
        compare_recipes(load(folder, "one-shot") | again, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ([], {}, "nothing to compare"),
        (["one-shot", "one-shot"], {}, "two recipes named 'one-shot'"),
        (["one-shot"], {"params": 0.5, "macs": 0.5}, "one of --params and --macs"),
        (["one-shot"], {"macs": 1.5}, r"--macs is the share .* got 1.5"),
        (["weights"], {"macs": 0.5}, "--macs has nothing to set: the recipe has no prune"),
        (["weights"], {"sets": ["steps.prune.scope=global"]}, "no step of this recipe named 'prune'"),
    ],
)
def test_bad_input(folder: Path, names: Sequence[str], options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(folder, *names, **options)


def test_an_unknown_recipe_is_told_with_the_nearest() -> None:
    with pytest.raises(SecateurError, match="Did you mean 'transfer-channel'"):
        at_budget(["transfer-chanel"])


def test_settings_speak_to_the_recipes_that_have_the_step(folder: Path) -> None:
    recipes = load(folder, "one-shot", "weights", sets=["steps.prune.scope=global"])
    assert recipes["one-shot"].steps[1].config.scope == "global"  # type: ignore[attr-defined]
    assert recipes["weights"].to_dict()["steps"][1]["sparsify"]["ratio"] == 0.9


def test_a_used_folder_or_no_jobs_are_refused(folder: Path, finished: Comparison, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        compare_recipes(load(folder, "one-shot"), finished.folder)
    with pytest.raises(InputError, match="--jobs is the number of processes, at least 1; got 0"):
        compare_recipes(load(folder, "one-shot"), tmp_path / "out", jobs=0)
    (tmp_path / "dull.yaml").write_text(ONE.partition("- prune")[0].replace("one-shot", "dull"))
    with pytest.raises(InputError, match="nothing to compare in dull"):
        compare_recipes(at_budget([tmp_path / "dull.yaml"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- table and page


@pytest.mark.parametrize("seed", range(5))
def test_the_front_against_the_definition(seed: int) -> None:
    values = torch.randint(0, 6, (12, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    points = [(float(a), float(b)) for a, b in values]

    def beaten(i: int) -> bool:
        a = points[i]
        better = [b for b in points if b[0] <= a[0] and b[1] >= a[1] and b != a]
        return bool(better) or a in points[:i]

    expected = sorted((i for i in range(len(points)) if not beaten(i)), key=lambda i: points[i][0])
    assert front(points) == expected


ROWS = (
    Row("dense", now={"top1": 90.0, "top5": 99.0}, params=1000, macs=5000, flops=10000, compression=1.0, seconds=3.0),
    Row(
        "<b>evil</b>",
        before={"top1": 10.0},
        now={"top1": 80.0},
        params=500,
        macs=2500,
        flops=5000,
        compression=2.0,
        epochs=3,
    ),
    Row("beaten", now={"top1": 70.0}, params=600, macs=2500, flops=5000, compression=1.6667),
    Row("broken", failed="<script>alert(1)</script>"),
)


def test_the_chart_has_the_front_and_numbers_of_the_table() -> None:
    figure = pareto(Comparison(Path(), ROWS[:3], {}), "params", "parameters")
    assert figure is not None
    line, best, beaten, dense = figure["data"]
    assert (line["x"], line["y"]) == ([500, 1000], [80.0, 90.0])
    assert (best["text"], beaten["text"], dense["x"]) == (["1"], ["2"], [1000])
    assert best["customdata"] == ["1 · &lt;b&gt;evil&lt;/b&gt;"]
    assert pareto(Comparison(Path(), ROWS[:1], {}), "params", "parameters") is None


def test_columns_that_nobody_has_are_left_out() -> None:
    table = columns(ROWS[:3], quality((TOP1, TOP5)))
    assert table.headers == ("", "Top-1 accuracy before", "Top-1 accuracy", "Top-5 accuracy")
    assert table.rows[1] == ("1 · <b>evil</b>", "10.00 %", "80.00 %", "–")
    assert columns(ROWS[:3], SIZE).rows[1] == ("1 · <b>evil</b>", "500", "2.00×", "2.50 k", "5.00 k")
    assert columns(ROWS[:3], COST).headers == ("", "Epochs", "Time taken")


FACTS = {"model": "net", "data": "digits", "budget": "", "command": "secateur compare"}


def test_a_busy_machine_has_no_fastest(tmp_path: Path) -> None:
    rows = tuple(replace(row, forward_ms=2.0 + i) for i, row in enumerate(ROWS[:3]))
    quiet = write_comparison(Comparison(tmp_path, rows, FACTS), tmp_path / "quiet.html").read_text()
    facts = FACTS | {"busy": ["The machine was <busy>."], "assumed": ["It began with random weights."]}
    busy = write_comparison(Comparison(tmp_path, rows, facts), tmp_path / "busy.html").read_text()
    assert "Fastest forward pass" in quiet
    assert "Fastest forward pass" not in busy
    assert "The machine was &lt;busy&gt;." in busy
    assert "It began with random weights." in busy


def test_the_dense_network_is_timed_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(entrants: Sequence[Entrant], *_: object, **__: object) -> list[Timing]:
        return [
            Timing(e.name, "pytorch", "forward", 1, 1, "eval", 1, (2.0, 2.0), again_ms=(3.0, 3.0) if e.again else ())
            for e in entrants
        ]

    monkeypatch.setattr(comparison_table, "latency", doubled)
    timings = comparison_table._times({"dense": torch.nn.ReLU(), "other": torch.nn.ReLU()}, torch.ones(1, 2), 1.0)
    (said,) = comparison_table.busy(timings)
    assert "dense against itself came out 0.67 times as fast" in said


def test_the_page_escapes_everything(tmp_path: Path) -> None:
    facts = {"model": "<i>net</i>", "data": "a & b", "budget": "<u>", "command": "secateur compare '<x>'"}
    page = write_comparison(Comparison(tmp_path, ROWS, facts), tmp_path / "page.html").read_text()
    for raw in ("<b>evil", "<script>alert", "<i>net", "<u>", "<x>"):
        assert raw not in page
    assert "3 ways to prune &lt;i&gt;net&lt;/i&gt;" in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_comparison_from_python_is_in_the_log(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="secateur")
    heard: list[JobEvent] = []
    compare_recipes(load(folder, "one-shot"), tmp_path / "out", jobs=1, on_event=heard.append)
    assert "one-shot: [1/2] prune: begin" in caplog.messages
    assert any(line.startswith("one-shot: [2/2] finetune: end after ") for line in caplog.messages)
    assert [str(event) for event in heard if event.what == "done"] == ["dense: done", "one-shot: done"]
    assert str(JobEvent("one", "failed", reason="no room")) == "one: failed: no room"
