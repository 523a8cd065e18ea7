"""Processes and temporary files that end with the command, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from secateur.core.processes import scratch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and locks of POSIX systems")

HOLD = """
import sys
from secateur.core.processes import scratch
with scratch() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder for this test alone."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def held() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_temporary_files_of_anybody_lie_in_it_and_go_with_it(place: Path) -> None:
    with scratch() as folder:
        assert folder.parent == place
        inside = Path(tempfile.mkdtemp())
        assert inside.parent == folder
        with scratch() as inner:
            assert inner.parent == folder
        assert Path(tempfile.gettempdir()) == folder
    assert not list(place.iterdir())
    assert Path(tempfile.gettempdir()) == place


def test_the_next_one_deletes_what_a_killed_process_left_and_nothing_else(place: Path) -> None:
    for name in ("secateur-run-notes.txt", "other"):
        (place / name).touch()
    killed, left = held()
    alive, kept = held()
    with killed, alive:
        killed.kill()
        killed.wait()
        assert left.is_dir()
        with scratch():
            assert not left.exists()
            assert kept.is_dir()
        alive.communicate("")
    assert sorted(path.name for path in place.iterdir()) == ["other", "secateur-run-notes.txt"]


def test_a_link_with_such_a_name_is_not_followed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a").touch()
    (place / "secateur-run-x").symlink_to(tmp_path / "letters")
    with scratch():
        pass
    assert (tmp_path / "letters" / "a").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the system has to tell a process that its parent died")
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_process_dies_with_its_parent(way: str) -> None:
    child = "from secateur.core.processes import follow_parent; follow_parent(); print('ready', flush=True); hang()"
    hang = "import signal\ndef hang():\n    while True: signal.pause()\n"
    parents = {
        "spawn": f"{hang}import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {hang + child!r}])\nhang()",
        "fork": f"{hang}import os\nfrom secateur.core.processes import forks_follow\nforks_follow()\n"
        "if os.fork() == 0: print('ready', flush=True); hang()\nhang()",
    }
    with subprocess.Popen([sys.executable, "-c", parents[way]], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.read() == b""  # it ends when the last process that holds the pipe is dead


TOY = """
name: toy
model: {name: vgg_digits}
data: {name: digits, limit: 96}
steps:
- adapt: {epochs: 1}
- prune: {ratio: 0.2}
- finetune: {epochs: 1000}
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("words", [["run"], ["compare", "--jobs", "1"]])
def test_a_signal_ends_a_command_with_one_line_that_says_how_to_go_on(
    tmp_path: Path, place: Path, words: list[str], number: signal.Signals, status: int
) -> None:
    (tmp_path / "toy.yaml").write_text(TOY)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "secateur", *words, str(tmp_path / "toy.yaml"), "--out", str(out), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs the tests may ignore it
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "d" in process.stdout.readline()  # "[1/3] adapt", or "dense: done"
        os.killpg(process.pid, number)
        _, said = process.communicate()
    assert process.returncode == status
    assert " ".join(said.split()) == f"Stopped: Go on with: secateur resume {out}"
    assert not [path for path in place.iterdir() if not path.name.startswith("torchinductor_")]  # a cache of PyTorch
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
