"""Whole runs: the folder they leave, stops at any moment, the same numbers after a resume."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import secateur
from secateur.core.errors import DataError, InputError, SecateurError
from secateur.recipe import Event, load_recipe, override, reopen, resume, run
from secateur.recipe.sameness import differences, numbers
from secateur.recipe.schema import Recipe

# Small enough for two seconds, and every kind of step is in it.
SMALL = (
    "data.limit=96",
    "steps.adapt.epochs=2",
    "steps.control.epochs=1",
    "steps.finetune.epochs=2",
    "steps.measure.runtimes=[]",
)
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(*sets: str) -> Recipe:
    return load_recipe("transfer-channel", edit=lambda tree: override(tree, (*SMALL, *sets)))


def short(*sets: str) -> Recipe:
    """Only the steps that change weights, for tests that run it many times."""
    recipe = small(*sets)
    kinds = ("adapt", "control", "prune", "finetune")
    return Recipe(**{**vars(recipe), "steps": tuple(s for s in recipe.steps if s.kind in kinds)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "first"
    run(small(), out, command="secateur run transfer-channel --out first")
    return out


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("short") / "first"
    run(short(), out)
    return numbers(out)


def test_the_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "state.json", "results.json"} <= names
    assert {"artifact", "model.onnx", "report.html", "steps"} <= names
    assert not [name for name in names if name.startswith(".") and name != ".lock"]
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["command"] == "secateur run transfer-channel --out first"
    assert environment["seeds"]["run"] == 0
    assert environment["machine"]["versions"]["torch"] == version("torch")
    assert load_recipe(finished / "recipe.yaml") == small()


def test_metrics_have_a_line_per_epoch_and_per_step(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["step"], line.get("epoch")) for line in lines]
    assert keys == [
        ("01-adapt", 1),
        ("01-adapt", 2),
        ("01-adapt", None),
        ("02-control", 1),
        ("02-control", None),
        ("03-prune", None),
        ("04-finetune", 1),
        ("04-finetune", 2),
        ("04-finetune", None),
        ("05-measure", None),
        ("06-export", None),
        ("07-report", None),
    ]
    cut = lines[5]
    assert cut["params"] < cut["params_before"]
    assert cut["max_relative_error"] <= 1e-5


def test_the_artifact_holds_the_fine_tuned_network(finished: Path) -> None:
    again = reopen(finished)
    images = again.task.sample(8, split="test")
    loaded = secateur.load(finished / "artifact", model=again.state.models["dense"]).model
    with torch.no_grad():
        expected = again.state.models["pruned"].eval()(images)
        assert torch.equal(loaded(images), expected)
        assert not torch.equal(again.state.models["dense"].eval()(images), expected)


def test_the_onnx_file_gives_the_labels_of_the_network(finished: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    again = reopen(finished)
    images = again.task.sample(16, split="test")
    session = runtime.InferenceSession(str(finished / "model.onnx"))
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = again.state.models["pruned"].eval()(images)
    assert (torch.from_numpy(output).argmax(1) == expected.argmax(1)).all()


def test_results_feed_the_report(finished: Path) -> None:
    from secateur.report import Results

    results = Results.model_validate(json.loads((finished / "results.json").read_text()))
    assert [network.role for network in results.networks] == ["dense", "control", "pruned"]
    curves = {curve.role: [point.epoch for point in curve.points] for curve in results.curves}
    assert curves == {"dense": [1, 2], "control": [3], "pruned": [3, 4]}, "epochs run on after the adaptation"
    assert results.exports[0].path == "model.onnx"
    assert "360" in results.data or "images" in results.data


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    tmp_path: Path, reference: dict[str, object]
) -> None:
    run(short(), tmp_path / "again")
    assert differences(numbers(tmp_path / "again"), reference) == []
    run(short("seed=1"), tmp_path / "other")
    assert differences(numbers(tmp_path / "other"), reference)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before, events = numbers(finished), list[Event]()
    resume(finished, on_event=events.append)
    assert {event.what for event in events} == {"kept"}
    assert numbers(finished) == before


class Crash(BaseException):
    """Stands for a process that dies: nothing in the code catches it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, moment: int, *, after: bool) -> Callable[[], int]:
    """Dies at the ``moment``-th time that a file gets its name, just before or just after it does."""
    real, count = os.replace, [0]

    def replace(source: object, target: object, **options: object) -> None:
        count[0] += 1
        if count[0] == moment and not after:
            raise Crash
        real(source, target, **options)  # type: ignore[call-overload]
        if count[0] == moment:
            raise Crash

    def path_replace(self: Path, target: Path) -> Path:
        replace(self, target)
        return Path(target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "replace", path_replace)
    return lambda: count[0]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_is_made_good_by_resume(tmp_path: Path, reference: dict[str, object], after: bool) -> None:
    moment, crashed = (4 if after else 1), 0
    while True:
        out = tmp_path / f"run-{moment}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, moment, after=after)
            try:
                run(short(), out)
            except Crash:
                crashed += 1
            else:
                break
        if (out / "recipe.yaml").exists():
            resume(out)
        else:
            assert not out.exists(), "half a folder was left"
            run(short(), out)
        assert differences(numbers(out), reference) == []
        moment += 6  # every sixth, to be quick; benchmarks/kill_resume.py tries the moments between
    assert crashed >= 4


def test_two_crashes_in_a_row(tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_at(patch, 9, after=False)
        with pytest.raises(Crash):
            run(short(), out)
    with monkeypatch.context() as patch:
        crash_at(patch, 7, after=True)
        with pytest.raises(Crash):
            resume(out)
    events: list[Event] = []
    resume(out, on_event=events.append)
    assert "kept" in {event.what for event in events}
    assert differences(numbers(out), reference) == []


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_numbers(tmp_path: Path, finished: Path) -> None:
    out, generator, kills = tmp_path / "run", random.Random(0), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while kills < 2:
        command = ["resume", str(out)] if (out / "recipe.yaml").exists() else [*RUN, "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, "-m", "secateur", *command], env=environment, stdout=subprocess.DEVNULL
        )
        seen = progress_of(out)
        while progress_of(out) == seen and process.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 2
    subprocess.run([sys.executable, "-m", "secateur", "resume", str(out)], env=environment, check=True)
    assert differences(numbers(out), numbers(finished)) == []


RUN = ["run", "transfer-channel", *SETTINGS]


def progress_of(out: Path) -> int:
    """Grows while a run goes on: lines of metrics."""
    with contextlib.suppress(FileNotFoundError):
        return len((out / "metrics.jsonl").read_text().splitlines())
    return 0


def test_a_used_folder_is_refused_and_resume_is_offered(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="secateur resume"):
        run(small(), finished)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        run(small(), tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        run(small(), tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("model.name=resnet_digit", SecateurError, "resnet_digits"),
        ("model.name=resnet20", InputError, "does not take the images of digits"),
        ("model.weights=missing.safetensors", SecateurError, "missing.safetensors"),
        ("data.name=digitz", SecateurError, "digits"),
        ("data.mean=[0.1, 0.2]", InputError, "1 channels"),
        ("model.options={wings: 2}", InputError, "wings"),
    ],
)
def test_bad_input_leaves_no_folder(tmp_path: Path, setting: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run(small(setting), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run in"):
        resume(tmp_path)
    with pytest.raises(DataError, match="no run in"):
        resume(tmp_path / "nowhere")


def test_a_changed_recipe_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_at(patch, 6, after=True)
        with pytest.raises(Crash):
            run(short(), out)
    text = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(text.replace("ratio: 0.1", "ratio: 0.2"))
    with pytest.raises(InputError, match="was changed after its run began"):
        resume(out)


def test_relative_paths_of_a_recipe_start_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    from secateur.models import create

    (tmp_path / "start").mkdir()
    (tmp_path / "elsewhere").mkdir()
    weights = {name: t.clone() for name, t in create("resnet_digits").state_dict().items()}
    save_file(weights, tmp_path / "start" / "mine.safetensors")
    monkeypatch.chdir(tmp_path / "start")
    with monkeypatch.context() as patch:
        crash_at(patch, 6, after=True)
        with pytest.raises(Crash):
            run(short("model.weights=mine.safetensors"), tmp_path / "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(tmp_path / "run")
    assert Path.cwd() == tmp_path / "elsewhere"


def test_a_head_is_replaced_when_the_classes_differ_or_a_dense_layer_is_added() -> None:
    from secateur.data import load
    from secateur.recipe.prepare import make_model

    data = load("digits", limit=50)
    plain = make_model(small(), data)
    wide = make_model(small("model.head.hidden=24"), data)
    assert [m.out_features for m in plain.modules() if isinstance(m, torch.nn.Linear)] == [10]
    assert [m.out_features for m in wide.modules() if isinstance(m, torch.nn.Linear)] == [24, 10]
    other = make_model(small("model.options={classes: 7}", "model.head.replace=auto"), data)
    assert [m.out_features for m in other.modules() if isinstance(m, torch.nn.Linear)] == [10]
    with pytest.raises(InputError, match=r"7 class scores.*10 classes.*Set it to auto"):
        make_model(small("model.options={classes: 7}", "model.head.replace=never"), data)


def test_a_full_disk_says_so_and_can_be_gone_on_from(
    tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, count = tmp_path / "run", os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] > 8:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"disk is full.*secateur resume"):
            run(short(), out)
    resume(out)
    assert differences(numbers(out), reference) == []


def test_fine_tuning_with_a_teacher_changes_the_weights_and_resumes(finished: Path, tmp_path: Path) -> None:
    sets = ("steps.finetune.distill={weight: 0.9, temperature: 2}", "steps.finetune.average=0.9",
            "steps.finetune.mixup=0.2")  # fmt: skip
    done = run(short(*sets), tmp_path / "taught")
    plain = reopen(finished)
    one, other = (r.state.models["pruned"].state_dict() for r in (done, plain))
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    again = resume(tmp_path / "taught").state.models["pruned"].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in one.items())


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = short("steps.finetune.distill={teacher: control}")
    without = Recipe(**{**vars(recipe), "steps": tuple(s for s in recipe.steps if s.kind != "control")})
    with pytest.raises(InputError, match="distils from the control network"):
        run(without, tmp_path / "run")
