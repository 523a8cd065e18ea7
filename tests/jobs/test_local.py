"""Jobs in processes of this machine: what they say, and how they end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from secateur.core.errors import InputError
from secateur.jobs import Command, Local, as_executor, cores

TALK = """
import json, os, signal, sys
word = sys.argv[1]
print("something that the network prints")
print(json.dumps({"what": "begin", "kind": word}), flush=True)
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "crash":
    raise ValueError("no luck")
if word == "fails":
    print(json.dumps({"what": "failed", "reason": "a reason"}))
    sys.exit(2)
if word != "silent":
    print(json.dumps({"what": "done"}))
"""


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "talk.py").write_text(TALK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # -P leaves out the working directory alone
    return tmp_path


def told(folder: Path, *words: str, parallel: int = 2) -> list[tuple[str, Mapping[str, Any]]]:
    heard: list[tuple[str, Mapping[str, Any]]] = []
    commands = [Command(word, "talk", (word,), folder, folder / f"{word}.log") for word in words]
    with Local(parallel).begin() as at:
        at(folder / "talk.py", folder)(
            commands, lambda name, event: heard.append((name, json.loads(json.dumps(event))))
        )
    return heard


def test_every_job_is_heard_and_ends_once_with_why(talk: Path) -> None:
    heard = told(talk, "fine", "killed", "crash", "fails", "silent")
    ends = {name: event["reason"] for name, event in heard if event["what"] == "ended"}
    assert ends == {
        "fine": "",
        "killed": "its process was killed (SIGKILL)",
        "crash": "its process ended with status 1: ValueError: no luck",
        "fails": "a reason",
        "silent": "its process ended with status 0",
    }
    assert sorted(name for name, event in heard if event["what"] == "begin") == sorted(ends)
    assert [event["what"] for name, event in heard if name == "fine"] == ["begin", "ended"]


def test_whoever_listens_and_fails_ends_them_all(talk: Path) -> None:
    commands = [Command(word, "talk", (word,), talk, talk / f"{word}.log") for word in ("one", "two", "three")]

    def tell(name: str, event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Local(1).run(commands, tell)
    assert not (talk / "three.log").exists(), "what had not begun does not begin"


def test_who_asks_for_no_number_gets_one_process_a_core() -> None:
    assert as_executor(None) == Local(cores())
    assert as_executor(3) == Local(3)
    with pytest.raises(InputError, match="at least 1; got 0"):
        as_executor(0)
