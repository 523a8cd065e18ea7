"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.core.errors import DataError, InputError, SecateurError
from secateur.core.files import clear_hidden, disk_errors, lock, new_folder, read_json, write_json, write_text
from secateur.recipe.metrics import Metrics
from secateur.recipe.runner import worker_errors


def test_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "long old text")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"disk is full.*then go on"), disk_errors(tmp_path, "go on"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_other_errors_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), disk_errors(tmp_path):
        raise RuntimeError("something else")
    with pytest.raises(DataError, match="disk is full"), disk_errors(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def test_json_refuses_nan_and_names_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.json").write_text('{"half": ')
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"Cannot read .*b\.json"):
        read_json(tmp_path / "b.json")


def test_sweep_deletes_only_temporary_files(tmp_path: Path) -> None:
    for name in (
        ".metrics.jsonl.x1.tmp",
        "metrics.jsonl",
        ".lock",
        "sub/.model.safetensors.9.tmp",
        ".scratch/half.onnx",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear_hidden(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".lock", "metrics.jsonl"]


def test_lock_keeps_a_second_process_out_and_dies_with_the_first(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys, time; from pathlib import Path; from secateur.core.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="Another process"), lock(tmp_path):
            pass
        other.kill()
    with lock(tmp_path):
        pass


def test_metrics_have_every_epoch_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Metrics(path).put([{"step": "01-adapt", "epoch": e, "loss": 1 / e} for e in (1, 2)])
    again = Metrics(path)  # epoch 2 is done again after a kill, then the step ends
    again.put([{"step": "01-adapt", "epoch": 2, "loss": 0.5, "seconds": 3.0}])
    again.finish("01-adapt", [{"step": "01-adapt", "epoch": e} for e in (1, 2, 3)], {"step": "01-adapt", "top1": 9})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line.get("epoch")) for line in lines] == [
        ("01-adapt", 1),
        ("01-adapt", 2),
        ("01-adapt", 3),
        ("01-adapt", None),
    ]


def test_metrics_drop_epochs_that_a_step_turned_out_not_to_have(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.put([{"step": "a", "epoch": e} for e in (1, 2, 3)] + [{"step": "b", "epoch": 1}])
    metrics.finish("a", [{"step": "a", "epoch": 1}], {"step": "a"})
    keys = [(line["step"], line.get("epoch")) for line in Metrics(tmp_path / "metrics.jsonl").lines]
    assert keys == [("b", 1), ("a", 1), ("a", None)]


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": "a"}\n{"ste')
    with pytest.raises(DataError, match=r"Line 2 of .*metrics\.jsonl is not JSON.*Delete the file and resume"):
        Metrics(tmp_path / "metrics.jsonl")


def test_a_killed_decoder_is_told_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match=r"decodes images was killed.*secateur resume"), worker_errors(tmp_path):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="something else"), worker_errors(tmp_path):
        raise RuntimeError("something else")


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def stopped() -> None:
        with new_folder(tmp_path / "a") as new:
            (new / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "a") as new:
        (new / "whole").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "whole"]
    with pytest.raises(InputError, match="Cannot make the folder"), new_folder(tmp_path / "a") as new:
        (new / "other").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "whole"]


def test_two_processes_do_not_make_the_same_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with new_folder(tmp_path / "a"), pytest.raises(InputError, match="Another process"), new_folder(tmp_path / "a"):
        pass


def test_sweep_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "letter").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".link").symlink_to(tmp_path / "outside")
    clear_hidden(tmp_path / "run")
    assert (tmp_path / "outside" / "letter").exists()
    assert not list((tmp_path / "run").iterdir())
