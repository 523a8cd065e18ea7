"""Folders of runs that are damaged, forged, or not as they were: named in one sentence, before anything is trained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from secateur.core.errors import DataError, InputError, SecateurError, WeightsError
from secateur.jobs import Local
from secateur.recipe import load_recipe, override, reopen, resume, run
from secateur.recipe.comparison import JobEvent, at_ratios, compare_recipes, resume_comparison
from secateur.recipe.comparison.jobs import Job, run_jobs
from secateur.recipe.folder import RunFolder

TWO_STEPS = """
name: toy
model: {{name: vgg_digits}}
data: {{name: {data}, limit: 40}}
steps:
- adapt: {{epochs: 1}}
- prune: {{ratio: 0.2}}
"""


def toy(data: str = "digits", **changes: str) -> str:
    return TWO_STEPS.format(data=data)


def begun(tmp_path: Path, data: str = "digits") -> Path:
    """A run of which the first step is done."""
    file, out = tmp_path / "toy.yaml", tmp_path / "out"
    file.write_text(toy(data))
    run(load_recipe(file), out)
    state = json.loads((out / "state.json").read_text())
    state["done"], state["files"] = state["done"][:1], {"01-adapt": state["files"]["01-adapt"]}
    (out / "state.json").write_text(json.dumps(state))
    shutil.rmtree(out / "steps" / "02-prune")
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return begun(tmp_path_factory.mktemp("stopped"))


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "out")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step may begin, and nothing may be loaded into a network."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a step began")

    monkeypatch.setattr("secateur.recipe.runner._Runner.go", never)
    monkeypatch.setattr("secateur.recipe.runner._Runner.restore", never)


def refused(folder: Path, words: str, error: type[SecateurError] = SecateurError) -> None:
    """Both ways of opening a run say so, in one line."""
    for opening in (resume, reopen):
        with pytest.raises(error, match=words) as caught:
            opening(folder)
        assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------- each file, damaged

RECORDS = ("state.json", "environment.json", "steps/01-adapt/result.json")


def fill(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**30)  # a hole: it takes no room on the disk


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_instead(path: Path) -> None:
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.with_suffix(".kept"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda p: p.write_text(p.read_text()[:20]), "not JSON"),
    "empty": (lambda p: p.write_text(""), "not JSON"),
    "no text": (lambda p: p.write_bytes(b"\xff\xfe\x00"), "not a text file"),
    "a list": (lambda p: p.write_text("[]"), "holds a list"),
    "no keys": (lambda p: p.write_text("{}"), "is missing"),
    "nested": (lambda p: p.write_text('{"format": ' + "[" * 20_000 + "]" * 20_000 + "}"), "nested too deeply"),
    "crowded": (lambda p: p.write_text('{"format": [' + "[]," * 600_000 + "[]]}"), "lists and objects"),
    "huge number": (lambda p: p.write_text('{"format": ' + "9" * 10_000 + "}"), "not JSON"),
    "NaN": (lambda p: p.write_text('{"format": NaN}'), "no finite number"),
    "infinite": (lambda p: p.write_text('{"seconds": 1e999}'), "no finite number"),
    "twice": (lambda p: p.write_text('{"format": 1, "format": 1}'), "given twice"),
    "a gigabyte": (fill, "bytes"),
    "gone": (lambda p: p.unlink(), "No such file"),
    "a folder": (folder_instead, "it is a folder"),
    "a pipe": (pipe_instead, "is a named pipe"),
    "a link": (link_instead, "is a link"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.usefixtures("untrained")
def test_damaged_records_are_named(out: Path, name: str, damage: str) -> None:
    change, words = DAMAGE[damage]
    change(out / name)
    if name.startswith("steps"):  # its digest tells first; a stranger's folder has the right ones
        words = f"{words}|has changed|is gone"
    refused(out, f"{Path(name).name}.*({words})")


@pytest.mark.parametrize("damage", sorted(set(DAMAGE) - {"gone", "NaN", "infinite", "empty"}))
def test_damaged_metrics_are_named(out: Path, damage: str) -> None:
    change, words = DAMAGE[damage]
    change(out / "metrics.jsonl")
    refused(out, f"metrics.jsonl.*({words}|step and an epoch)", DataError)


def test_metrics_that_are_gone_are_written_again(out: Path) -> None:
    before = [line for line in (out / "metrics.jsonl").read_text().splitlines() if "01-adapt" in line]
    (out / "metrics.jsonl").unlink()
    resume(out)
    assert (out / "metrics.jsonl").read_text().splitlines()[: len(before)] == before


FORGED: dict[str, tuple[str, Callable[[dict], object]]] = {
    "done climbs": ("state.json", lambda s: s.update(done=["../../x"])),
    "done is another step": ("state.json", lambda s: s.update(done=["01-finetune"])),
    "done twice": ("state.json", lambda s: s.update(done=["01-adapt", "01-adapt"])),
    "done is text": ("state.json", lambda s: s.update(done="01-adapt")),
    "done is a number": ("state.json", lambda s: s.update(done=3)),
    "files climb": ("state.json", lambda s: s.update(files={"01-adapt": {"../../x": "0" * 64}})),
    "files of a step that climbs": ("state.json", lambda s: s.update(files={"../x": {}})),
    "another format": ("state.json", lambda s: s.update(format=99)),
    "format is text": ("state.json", lambda s: s.update(format="1")),
    "home is a number": ("state.json", lambda s: s.update(home=7)),
    "home is long": ("state.json", lambda s: s.update(home="x" * 10**6)),
    "data are a list": ("state.json", lambda s: s.update(data=[])),
    "no digest": ("state.json", lambda s: s.update(inputs={"model.weights": "x"})),
    "no threads": ("environment.json", lambda s: s["machine"].update(threads=0)),
    "a billion threads": ("environment.json", lambda s: s["machine"].update(threads=10**9)),
    "threads are text": ("environment.json", lambda s: s["machine"].update(threads="2")),
    "machine is text": ("environment.json", lambda s: s.update(machine="mine")),
    "command is a list": ("environment.json", lambda s: s.update(command=["rm"])),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.usefixtures("untrained")
def test_forged_records_are_refused(out: Path, case: str) -> None:
    name, change = FORGED[case]
    record = json.loads((out / name).read_text())
    change(record)
    (out / name).write_text(json.dumps(record))
    refused(out, rf"{name}.*(is damaged|has format 99)", DataError)


RESULTS: dict[str, Callable[[dict], object]] = {
    "seconds are negative": lambda r: r.update(seconds=-1),
    "summary is a list": lambda r: r["result"].update(summary=[]),
    "epochs without a step": lambda r: r["result"].update(epochs=[{"epoch": 1}]),
    "an epoch that is a list": lambda r: r["result"]["epochs"][0].update(epoch=[1]),
    "evaluations of text": lambda r: r["result"].update(evaluations={"dense": "good"}),
    "evaluations without samples": lambda r: r["result"].update(evaluations={"dense": {}}),
    "a report of another kind": lambda r: r["result"].update(report={"blocks": 3}),
    "a report of an unknown part": lambda r: r["result"].update(report={"bloks": []}),
    "curves that are a number": lambda r: r["result"].update(report={"curves": 3}),
}


@pytest.mark.parametrize("case", RESULTS)
def test_results_that_a_stranger_forged_with_their_digests(out: Path, case: str) -> None:
    file, state = out / "steps/01-adapt/result.json", json.loads((out / "state.json").read_text())
    record = json.loads(file.read_text())
    RESULTS[case](record)
    file.write_text(json.dumps(record))
    state["files"] = {}
    (out / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="damaged"):
        reopen(out)


# ------------------------------------------------------------------------------------- nothing is written elsewhere


@pytest.mark.parametrize("name", [".lock", "steps", "steps/01-adapt", "artifact", "metrics.jsonl", "results.json"])
def test_nothing_is_written_through_a_link(out: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if (out / name).is_dir():
        shutil.move(out / name, outside)
    else:
        (out / name).unlink(missing_ok=True)
        outside.write_text("a letter")
    before = sorted(outside.rglob("*")) if outside.is_dir() else outside.read_text()
    (out / name).symlink_to(outside)
    refused(out, f"{Path(name).name} is a link", DataError)
    assert (sorted(outside.rglob("*")) if outside.is_dir() else outside.read_text()) == before


@pytest.mark.parametrize("change", [folder_instead, pipe_instead])
def test_a_lock_that_is_no_file(out: Path, change: Callable[[Path], None]) -> None:
    (out / ".lock").touch()
    change(out / ".lock")
    with pytest.raises((InputError, DataError), match=r"\.lock"):
        resume(out)


# ------------------------------------------------------------------------------------ what was there when it began


def test_an_overwritten_weight_is_named_before_anything_is_loaded(out: Path, untrained: None) -> None:
    file = out / "steps/01-adapt/model.safetensors"
    weights = load_file(file)
    weights[next(iter(weights))].view(-1)[0] += 1
    save_file(weights, file)
    refused(out, r"model\.safetensors has changed", WeightsError)
    file.unlink()
    refused(out, r"model\.safetensors is gone", WeightsError)


def pictures(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = torch.randint(0, 256, (8, 8), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{number:02d}.png")
    return folder


def repaint(folder: Path) -> None:
    path = folder / "cat" / "03.png"
    Image.fromarray(255 - torch.tensor(list(Image.open(path).getdata()), dtype=torch.uint8).view(8, 8).numpy()).save(
        path
    )


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pixels": (repaint, "samples have changed"),
    "missing": (lambda folder: (folder / "cat" / "03.png").unlink(), r"samples and were \d+"),
    "renamed": (lambda folder: (folder / "dog").rename(folder / "fox"), "class 1 is called 'fox' and was called 'dog'"),
    "swapped": (
        lambda folder: [(folder / a).rename(folder / b) for a, b in (("cat", "x"), ("dog", "cat"), ("x", "dog"))],
        "have changed",
    ),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", CHANGES)
def test_data_that_changed_are_named_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, streamed: bool
) -> None:
    if streamed:
        monkeypatch.setattr("secateur.data.folder.IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    folder = pictures(tmp_path / "pictures")
    out = begun(tmp_path, f"folder:{folder}")
    monkeypatch.setattr("secateur.recipe.runner._Runner.go", None)
    change, words = CHANGES[case]
    change(folder)
    with pytest.raises(DataError, match=rf"data of the run in .* have changed.*{words}"):
        resume(out)


def test_weights_that_the_run_began_with(tmp_path: Path) -> None:
    from secateur.models import create

    file, recipe = tmp_path / "w.safetensors", tmp_path / "toy.yaml"
    save_file({name: t.clone() for name, t in create("vgg_digits").state_dict().items()}, file)
    recipe.write_text(toy())
    out = tmp_path / "out"
    made = load_recipe(recipe, edit=lambda tree: override(tree, [f"model.weights={file}"]))
    run(made, out)
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file)
    with pytest.raises(WeightsError, match=r"w\.safetensors has changed since the run .*model\.weights"):
        resume(out)


def test_a_run_of_an_earlier_version_has_no_digests_and_goes_on(out: Path) -> None:
    state = json.loads((out / "state.json").read_text())
    for key in ("data", "inputs", "files"):
        del state[key]
    (out / "state.json").write_text(json.dumps(state))
    assert resume(out).state.current == "pruned"


def test_a_start_that_was_killed_leaves_nothing_once_it_is_made_again(tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(toy())
    (tmp_path / ".out.begin" / "new").mkdir(parents=True)
    (tmp_path / ".out.begin" / "new" / "recipe.yaml").touch()
    run(load_recipe(recipe), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "toy.yaml"]
    assert RunFolder.open(tmp_path / "out").done() == ["01-adapt", "02-prune"]


# ------------------------------------------------------------------------------------------------------ comparisons


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("comparison")
    (place / "toy.yaml").write_text(toy())
    return compare_recipes(at_ratios(place / "toy.yaml", [0.2]), place / "out", jobs=1).folder


@pytest.fixture
def copied(comparison: Path, tmp_path: Path) -> Path:
    out = shutil.copytree(comparison, tmp_path / "out")
    (out / "results.json").unlink()
    return out


PLANS: dict[str, Callable[[dict], object]] = {
    "a job that climbs": lambda p: p.update(jobs=["../../x"]),
    "a job that is a path": lambda p: p.update(jobs=["/etc/passwd"]),
    "a job twice": lambda p: p.update(jobs=["dense", "dense"]),
    "no jobs": lambda p: p.update(jobs=[]),
    "jobs are text": lambda p: p.update(jobs="dense"),
    "a billion processes": lambda p: p.update(parallel=10**9),
    "no processes": lambda p: p.update(parallel=0),
    "home is a list": lambda p: p.update(home=[]),
    "facts are numbers": lambda p: p.update(facts={"model": 1}),
    "another format": lambda p: p.update(format=99),
}


@pytest.mark.parametrize("case", PLANS)
def test_forged_plans_are_refused(copied: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.recipe.comparison.run.run_jobs", None)
    plan = json.loads((copied / "comparison.json").read_text())
    PLANS[case](plan)
    (copied / "comparison.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"comparison\.json (is damaged|has format 99)"):
        resume_comparison(copied)


def test_a_comparison_notices_weights_and_data_that_changed(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.recipe.comparison.run.run_jobs", None)
    plan = json.loads((copied / "comparison.json").read_text())
    plan["data"]["splits"]["train"]["content"] = "0" * 64
    (copied / "comparison.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match="training samples have changed"):
        resume_comparison(copied)
    file = copied / "runs/dense/steps/01-adapt/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors has changed"):
        resume_comparison(copied)


def test_a_job_that_was_killed_before_it_wrote_its_results_writes_them(copied: Path) -> None:
    before = json.loads((copied / "runs/dense/results.json").read_text())["curves"]
    (copied / "runs/dense/results.json").unlink()
    assert not resume_comparison(copied).failed
    assert json.loads((copied / "runs/dense/results.json").read_text())["curves"] == before


def test_a_table_with_a_failure_is_made_again(comparison: Path, copied: Path) -> None:
    """Of a job that went on by itself since, or was killed when it had done all and had only to end."""
    table = json.loads((comparison / "results.json").read_text())
    failed = {**table, "rows": [row | {"failed": "its process was killed (SIGTERM)"} for row in table["rows"]]}
    (copied / "results.json").write_text(json.dumps(failed))
    assert not resume_comparison(copied).failed
    assert not any(row["failed"] for row in json.loads((copied / "results.json").read_text())["rows"])


def test_a_job_that_was_killed_behind_its_last_step_is_done(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("dense", copied / "recipes/dense.yaml", copied / "runs/dense")
    done = shutil.copytree(job.folder, copied / "aside")
    shutil.rmtree(job.folder)

    class Killed:
        """A process that does its work and is killed when it would say so."""

        stdout: tuple[str, ...] = ()

        def __init__(self, *_: object, **__: object) -> None:
            shutil.copytree(done, job.folder)

        def __class_getitem__(cls, _: object) -> type:
            return cls

        def wait(self) -> int:
            return -signal.SIGTERM

    monkeypatch.setattr("secateur.jobs.process.subprocess.Popen", Killed)
    events: list[JobEvent] = []
    assert run_jobs([job], run=Local(1).run, home=copied, on_event=events.append) == {}
    assert [event.what for event in events] == ["done"]


@pytest.mark.parametrize("rows", [3, [{"name": 1}], [{}], None])
def test_a_damaged_table_is_named(comparison: Path, tmp_path: Path, rows: object) -> None:
    out = shutil.copytree(comparison, tmp_path / "out")
    (out / "results.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(DataError, match=r"results\.json is damaged"):
        resume_comparison(out)


def test_a_log_that_is_a_link_is_not_written_through(copied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "letter"
    outside.write_text("a letter")
    (copied / "recipes" / "dense.log").unlink(missing_ok=True)
    (copied / "recipes" / "dense.log").symlink_to(outside)
    with pytest.raises(DataError, match=r"dense\.log is a link"):
        resume_comparison(copied)
    assert outside.read_text() == "a letter"


# ------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("command", [["resume"], ["inspect"], ["report"]])
def test_commands_end_with_status_2_and_one_sentence(out: Path, command: list[str]) -> None:
    (out / "state.json").write_text('{"done": ["../../x"]}')
    ended = subprocess.run(
        [sys.executable, "-m", "secateur", *command, str(out)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "state.json is damaged" in " ".join(ended.stderr.split())
