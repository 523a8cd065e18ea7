"""Runs with loggers: every line once, in the same run of the logger, whatever stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from secateur.cli.main import main
from secateur.core.errors import UnknownNameError
from secateur.loggers import LOGGERS, LoggedRun, Logger, LoggerWarning, logger
from secateur.recipe import Event, load_recipe, override, resume, run
from secateur.recipe.comparison import at_budget, compare_recipes, resume_comparison
from secateur.recipe.logs import entries
from secateur.recipe.prepare import Given
from secateur.task import as_task

SETS = ("data.limit=96", "steps.adapt.epochs=2", "steps.control.epochs=1", "steps.finetune.epochs=2",
        "steps.measure.runtimes=[]")  # fmt: skip


class Stopped(Exception):
    """Stands for a kill: nothing of the run is told."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A logger that keeps what it gets and fails where ``at`` says."""
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found: dict[str, Any] = {"got": {}, "runs": [], "ends": [], "at": None, "error": ConnectionError}

    @logger("kept")
    class Kept(Logger):
        summary = "for tests"

        def start(self, run: LoggedRun) -> str:
            found["runs"].append(run)
            return run.id or "it"

        def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
            if (group, step) == found["at"]:
                raise found["error"]("away")
            for name, value in values.items():
                assert (group, name, step) not in found["got"], "sent twice"
                found["got"][group, name, step] = value

        def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
            found["ends"].append((complete, [file.name for file in files]))

    yield found
    LOGGERS.remove("kept")


def recipe(*kinds: str) -> Any:
    made = load_recipe("transfer-channel", edit=lambda tree: override(tree, SETS))
    return type(made)(**{**vars(made), "steps": tuple(s for s in made.steps if s.kind in kinds or not kinds)})


def points(got: Mapping[tuple[str, str, int], float], name: str) -> dict[tuple[str, int], float]:
    return {(group, step): value for (group, found, step), value in got.items() if found == name}


def test_a_run_is_logged_whole(kept: dict[str, Any], tmp_path: Path) -> None:
    run(recipe(), tmp_path / "first", log="kept")
    lines = [json.loads(line) for line in (tmp_path / "first/metrics.jsonl").read_text().splitlines()]
    losses = [line["train"]["loss"] for line in lines if "epoch" in line]
    assert points(kept["got"], "train/loss") == dict(zip(
        [("dense", 1), ("dense", 2), ("control", 3), ("pruned", 3), ("pruned", 4)], losses, strict=True))  # fmt: skip
    assert points(kept["got"], "params") == {("results", 3): lines[5]["params"]}
    assert points(kept["got"], "macs") == {("results", 3): lines[5]["macs"]}
    assert set(points(kept["got"], "test_top1")) == {("results", step) for step in (1, 2, 3, 4)}
    assert kept["ends"] == [(True, ["report.html", "results.json", "recipe.yaml"])]
    (began,) = kept["runs"]
    assert (began.name, began.id, began.sent) == ("first", "", 0)
    assert began.settings["steps"][0]["adapt"]["epochs"] == 2
    assert "threads" in began.settings["machine"]


def test_a_run_that_ended_is_not_opened_again(kept: dict[str, Any], tmp_path: Path) -> None:
    run(recipe("adapt", "prune"), tmp_path / "first", log="kept")
    before = dict(kept["got"])
    resume(tmp_path / "first")
    assert (len(kept["runs"]), len(kept["ends"]), kept["got"]) == (1, 1, before)


@pytest.mark.parametrize("at", [("dense", 1), ("dense", 2), ("results", 1), ("results", 2), ("pruned", 3)])
def test_a_kill_at_a_number_leaves_none_out_and_none_twice(
    at: tuple[str, int], kept: dict[str, Any], tmp_path: Path
) -> None:
    short = recipe("adapt", "prune", "finetune")
    kept |= {"at": at, "error": KeyboardInterrupt}
    with pytest.raises(KeyboardInterrupt):
        run(short, tmp_path / "first", log=["kept"])
    assert kept["ends"] == [(False, [])]
    kept["at"] = None
    resume(tmp_path / "first")
    assert kept["runs"][1].id == "it"
    assert kept["ends"][1:] == [(True, ["results.json", "recipe.yaml"])]
    other = dict(kept["got"])
    kept["got"].clear()
    run(short, tmp_path / "second", log=["kept"])
    timed = ("seconds", "samples_per_second", "test_seconds_per_sample")
    assert {k: v for k, v in other.items() if k[1] not in timed} == {
        k: v for k, v in kept["got"].items() if k[1] not in timed
    }


def test_a_logger_that_fails_does_not_stop_the_run_and_gets_the_rest_later(
    kept: dict[str, Any], tmp_path: Path
) -> None:
    kept["at"] = ("dense", 2)
    with pytest.warns(LoggerWarning, match="The logger kept failed: away. The run goes on without it"):
        done = run(recipe("adapt", "prune"), tmp_path / "first", log=["kept"])
    assert done.state.pruned is not None
    assert set(points(kept["got"], "lr")) == {("dense", 1)}
    kept["at"] = None
    resume(tmp_path / "first")
    assert set(points(kept["got"], "lr")) == {("dense", 1), ("dense", 2)}
    assert set(points(kept["got"], "params")) == {("results", 2)}


def test_the_run_of_a_stranger_logs_nothing(kept: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    def stop(event: Event) -> None:
        if (event.what, event.kind) == ("begin", "prune"):
            raise Stopped

    with pytest.raises(Stopped):
        run(recipe("adapt", "prune"), tmp_path / "first", log=["kept"], on_event=stop)
    before = dict(kept["got"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    with pytest.warns(LoggerWarning, match="was not started here, so its loggers get nothing; with --trust they do"):
        resume(tmp_path / "first")
    assert kept["got"] == before
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoggerWarning)
        resume(tmp_path / "first", trust=True)
    assert points(kept["got"], "params").keys() == {("results", 2)}


def test_curves_of_iterations_run_on() -> None:
    steps = ["01-adapt", "02-prune", "03-finetune", "99-prune", "100-finetune", "101-scratch"]
    lines = [{"step": step, "epoch": epoch, "lr": 0.1} for step in steps if "prune" not in step for epoch in (1, 2)]
    found = [(entry.group, entry.step) for entry in entries(lines)]
    assert found == [("dense", 1), ("dense", 2), *(("pruned", n) for n in (3, 4, 5, 6)), ("scratch", 1), ("scratch", 2)]


def test_the_command_line_logs_to_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out = tmp_path / "first"
    words = [word for setting in SETS for word in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        main(["run", "transfer-channel", *words, "--log", "tensorboard", "--out", str(out), "--quiet"])
    assert not ended.value.code, capsys.readouterr().err
    found = module.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in found.Scalars("pruned/validation/top1")] == [3, 4]
    assert found.Tags()["tensors"] == ["settings/text_summary"]


def test_the_command_line_names_the_nearest_and_lists_all(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "transfer-channel", "--log", "mlflo", "--out", str(tmp_path / "no")])
    assert ended.value.code == 2
    assert "There is no logger named 'mlflo'. Did you mean 'mlflow'?" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["loggers"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("tensorboard", "mlflow", "wandb"))


def test_a_failing_logger_is_one_line_on_the_command_line(
    kept: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept["at"] = ("dense", 1)
    words = [word for setting in SETS for word in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        main(["run", "transfer-channel", *words, "--log", "kept", "--out", str(tmp_path / "first"), "--quiet"])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Note: The logger kept failed: away.")
    assert secateur.load(tmp_path / "first/artifact", model=None if (tmp_path / "first/artifact/graph.json").exists()
                         else secateur.models.create("resnet_digits")).after.params > 0  # fmt: skip


KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from secateur.loggers.tensorboard import TensorBoard
from test_logs import recipe
from secateur.recipe import run

real, calls = TensorBoard.numbers, []


def numbers(self, group, values, step):
    real(self, group, values, step)
    calls.append(group)
    if len(calls) == int(sys.argv[3]):  # the logger has it, and the run's folder does not say so yet
        os.kill(os.getpid(), signal.SIGKILL)


TensorBoard.numbers = numbers
run(recipe("adapt", "prune", "finetune"), Path(sys.argv[1]), log="tensorboard")
"""


@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_process_that_is_killed_while_it_sends_leaves_nothing_twice(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    folder = tmp_path / "first"
    command = [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent), str(call)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    resume(folder)
    found = module.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    steps = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert (steps["dense/lr"], steps["pruned/lr"], steps["results/seconds"]) == ([1, 2], [3, 4], [1, 2, 3])
    assert all(len(set(where)) == len(where) for where in steps.values())


SMALL = """\
name: NAME
model: {name: vgg_digits}
data: {name: digits, limit: 64}
steps:
- adapt: {epochs: 2}
- prune: {ratio: 0.25}
- finetune: {epochs: 1}
"""


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Any]:
    """Two recipes from one dense network."""
    files = [tmp_path / f"{name}.yaml" for name in ("one", "other")]
    for file in files:
        file.write_text(SMALL.replace("NAME", file.stem))
    return at_budget(files)


def curves(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Where the learning rate of each run of a comparison stands in TensorBoard."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found: dict[str, list[tuple[str, int]]] = {}
    for place in sorted(folder.glob("runs/*/tensorboard")):
        one = module.EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        tags = [tag for tag in one.Tags()["scalars"] if tag.endswith("/lr")]
        found[place.parent.name] = [(tag, point.step) for tag in tags for point in one.Scalars(tag)]
    return found


def test_a_comparison_logs_every_run_under_its_name(two: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "one.yaml" / "mlruns"))  # below a file
    del two["other"]
    with pytest.warns(LoggerWarning, match=r"one: The logger mlflow failed: .* goes on without it"):
        found = compare_recipes(two, tmp_path / "out", jobs=2, log=["tensorboard", "mlflow", "tensorboard"])
    assert not found.failed
    tuned = [("pruned/lr", 1)]  # the dense network's epochs are those of another run
    assert curves(tmp_path / "out") == {"dense": [("dense/lr", 1), ("dense/lr", 2)], "one": tuned}


def test_a_comparison_that_was_handed_over_logs_too(kept: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, data = secateur.models.create("vgg_digits"), secateur.data.load("digits", limit=64)
    recipe = tmp_path / "one.yaml"
    recipe.write_text(SMALL.replace("NAME", "one"))
    with warnings.catch_warnings(record=True) as said:
        secateur.compare([recipe], tmp_path / "out", model=net, task=data, log="kept")
    assert not [w for w in said if "random weights" in str(w.message)], "it was trained in the first job"
    kept["got"].clear()
    assert [run.name for run in kept["runs"]] == ["dense", "one"]
    secateur.sweep(recipe, tmp_path / "swept", ratios=[0.5], model=net, task=data, log="kept")
    assert len(kept["runs"]) == 4


def test_a_comparison_asks_for_its_loggers_first(two: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tensorboard'"):
        compare_recipes(two, tmp_path / "out", log="tensorbord")
    assert not (tmp_path / "out").exists()


def test_the_comparison_of_a_stranger_logs_nothing(
    kept: dict[str, Any], two: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    def stop(event: Any) -> None:
        raise Stopped

    given = {"given": Given(secateur.models.create("vgg_digits"), as_task(secateur.data.load("digits", limit=64)))}
    with pytest.raises(Stopped):
        compare_recipes(two, tmp_path / "out", log="kept", on_event=stop, **given)  # type: ignore[arg-type]
    before = len(kept["runs"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    with pytest.warns(LoggerWarning, match="comparison in .* was not started here, so its loggers get nothing"):
        resume_comparison(tmp_path / "out", **given)  # type: ignore[arg-type]
    assert len(kept["runs"]) == before
