"""Real TensorBoard, MLflow and Weights & Biases (offline), by themselves and after a stop."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.conformance import check_item
from secateur.core.errors import DataError, InputError, PluginError, UnknownNameError
from secateur.data import load
from secateur.loggers import LOGGERS, LoggedRun, Logger, LoggerWarning, log_epochs, logger
from secateur.loggers import tensorboard as tensorboard_file
from secateur.loggers.log import Log, new_record


class Remembering(Logger):
    """Keeps what it gets, over the loggers of several processes."""

    summary = "for tests"
    got: list[tuple[str, int, Mapping[str, float]]]
    ends: list[tuple[bool, list[str]]]
    runs: list[LoggedRun]

    def start(self, run: LoggedRun) -> str:
        self.runs.append(run)
        return run.id or "here"

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        self.got.append((group, step, dict(values)))

    def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
        self.ends.append((complete, [file.name for file in files]))


@pytest.fixture
def remembering() -> Iterator[type[Remembering]]:
    kind = type("Fresh", (Remembering,), {"got": [], "ends": [], "runs": []})
    logger("remembering")(kind)
    yield kind
    LOGGERS.remove("remembering")


def began(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "loggers.json").write_text(json.dumps(new_record(names)))
    return folder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_every_number_once_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = began(tmp_path / "run", "tensorboard")
    first = Log(folder, {"steps": [{"prune": {"ratio": 0.5}}]})
    first.put("a/1", "dense", {"loss": 0.5, "bad": float("nan")}, 1)
    first.loggers["tensorboard"].numbers("dense", {"loss": 0.25}, 2)  # killed before it was noted
    with (next((folder / "tensorboard").iterdir())).open("ab") as file:
        file.write(b"\x18\0\0")  # and in the middle of a record
    second = Log(folder)
    for epoch, loss in ((1, 0.5), (2, 0.25), (3, 0.125)):
        second.put(f"a/{epoch}", "dense", {"loss": loss}, epoch)
    second.finish(complete=True)
    assert scalars(folder) == {"dense/loss": [(1, 0.5), (2, 0.25), (3, 0.125)]}
    assert tensorboard_file._points(folder / "nowhere") == set()


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    folder = began(tmp_path / "run", "mlflow")
    first = Log(folder, {"seed": 3, "steps": [{"prune": {"ratio": 0.5}}]})
    first.put("a/1", "dense", {"f1@0.5": 0.5}, 1)
    first.loggers["mlflow"].numbers("dense", {"f1@0.5": 0.25}, 2)
    first.finish(complete=False)
    (tmp_path / "report.html").write_text("<p>")
    client = tracking.MlflowClient()
    name = json.loads((folder / "loggers.json").read_text())["loggers"]["mlflow"]["id"]
    assert client.get_run(name).info.status == "KILLED"
    second = Log(folder)
    second.put("a/1", "dense", {"f1@0.5": 0.5}, 1)
    second.put("a/2", "dense", {"f1@0.5": 0.25}, 2)
    second.put("b", "results", {"params": 12}, 2)
    second.finish([tmp_path / "report.html", tmp_path / "gone.html"], complete=True)
    (run,) = client.search_runs([client.get_experiment_by_name("secateur").experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (name, "run", "FINISHED")
    assert run.data.params == {"seed": "3", "steps.0.prune.ratio": "0.5"}
    assert [(m.step, m.value) for m in client.get_metric_history(name, "dense/f1_0.5")] == [(1, 0.5), (2, 0.25)]
    assert run.data.metrics["results/params"] == 12
    assert [file.path for file in client.list_artifacts(name)] == ["report.html"]


def test_mlflow_without_its_run_is_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"format": 1, "loggers": {"mlflow": {"id": "0" * 32, "sent": []}}}
    (folder / "loggers.json").write_text(json.dumps(record))
    with pytest.warns(LoggerWarning, match="The logger mlflow failed: .*The run goes on without it"):
        assert Log(folder).loggers == {}


def test_wandb_offline_keeps_the_numbers_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = began(tmp_path / "run", "wandb")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoggerWarning)
        first = Log(folder, {"seed": 3})
        first.put("a/1", "dense", {"loss": 0.5}, 1)
        first.finish(complete=False)
        second = Log(folder, {"seed": 3})
        second.put("a/1", "dense", {"loss": 0.5}, 1)
        second.put("b", "results", {"params": 12}, 2)
        second.finish(complete=True)
    name = json.loads((folder / "loggers.json").read_text())["loggers"]["wandb"]["id"]
    files = sorted(folder.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert _history(files) == [{"dense/epoch": 1, "dense/loss": 0.5, "_step": 0},
                               {"results/step": 2, "results/params": 12, "_step": 1}]  # fmt: skip


def _history(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines in W&B's own files: records of its protocol, in blocks as LevelDB's log has them."""
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found, part = [], b""
    for data in (file.read_bytes() for file in files):
        at = 7
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            part, at = part + data[at + 7 : at + 7 + length], at + 7 + length
            if kind not in (1, 4):  # the first or middle part of a record
                continue
            record, part = records.Record.FromString(part), b""
            if record.HasField("history"):
                line = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                found.append({key: value for key, value in line.items() if key not in ("_runtime", "_timestamp")})
    return found


def test_an_unknown_logger_is_offered_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no logger named 'tensorbord'. Did you mean 'tensorboard'"):
        secateur.run("transfer-channel", log=["tensorbord"])


def test_a_missing_package_is_one_sentence_before_anything_is_made(tmp_path: Path) -> None:
    logger("absent")(type("Absent", (Remembering,), {"packages": ("no_such_package",), "title": "Absent"}))
    try:
        with pytest.raises(
            InputError, match=r"Logging to Absent needs no_such_package: pip install torch==.* no-such-"
        ):
            secateur.run("transfer-channel", tmp_path / "run", log="absent")
    finally:
        LOGGERS.remove("absent")
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text('{"format": 1, "loggers": {"mlflow": {"id": "../../x", "sent": []}}}')
    with pytest.raises(DataError, match=r"loggers.json is damaged: loggers.mlflow.id: .* Without it"):
        Log(tmp_path)
    (tmp_path / "loggers.json").write_text('{"format": 7}')
    with pytest.raises(DataError, match="has format 7; this version of Secateur reads format 1"):
        Log(tmp_path)


def test_fit_goes_on_where_it_stopped(tmp_path: Path, remembering: type[Remembering]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    data = load("digits", limit=40)
    net(torch.zeros(1, *data.shape))
    for epochs in (1, 3):
        with log_epochs(tmp_path / "log", "remembering", name="net", settings={"epochs": epochs}) as on_epoch:
            secateur.fit(net, data, secateur.TrainConfig(epochs=epochs), on_epoch=on_epoch, progress=False)
    assert [(group, step) for group, step, _ in remembering.got] == [("net", 1), ("net", 2), ("net", 3)]
    assert {"train/loss", "validation/top1", "lr"} <= remembering.got[0][2].keys()
    assert [(run.id, run.sent) for run in remembering.runs] == [("", 0), ("here", 1)]
    assert remembering.ends == [(True, []), (True, [])]


def test_fit_that_fails_closes_its_loggers_as_stopped(tmp_path: Path, remembering: type[Remembering]) -> None:
    with pytest.raises(KeyError), log_epochs(tmp_path / "log", ["remembering"]):
        raise KeyError
    assert remembering.ends == [(False, [])]


def test_a_logger_that_fails_costs_itself_alone(tmp_path: Path, remembering: type[Remembering]) -> None:
    @logger("failing")
    class Failing(Remembering):
        runs: list[LoggedRun] = []  # noqa: RUF012

        def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
            raise ConnectionError("the server\nis away")

    try:
        log = Log(began(tmp_path, "failing", "remembering"))
        with pytest.warns(LoggerWarning, match="The logger failing failed: the server. The run goes on without it"):
            log.put("a", "results", {"params": 1}, 1)
        log.put("b", "results", {"params": 2}, 2)
    finally:
        LOGGERS.remove("failing")
    assert [step for _, step, _ in remembering.got] == [1, 2]
    record = json.loads((tmp_path / "loggers.json").read_text())["loggers"]
    assert (record["failing"]["sent"], record["remembering"]["sent"]) == ([], ["a", "b"])


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_each_does_what_a_logger_has_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_item(LOGGERS, name).tried


def test_one_that_forgets_its_run_is_named() -> None:
    @logger("forgetful")
    class Forgetful(Logger):
        summary = "for tests"

        def start(self, run: LoggedRun) -> str:
            return f"{run.id}x"

        def numbers(self, group: str, values: Mapping[str, float], step: int) -> None: ...

    try:
        with pytest.raises(PluginError, match="The logger 'forgetful' is not in order: of a run that goes on, start"):
            check_item(LOGGERS, "forgetful")
    finally:
        LOGGERS.remove("forgetful")
