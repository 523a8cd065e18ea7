from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError, SecateurError
from secateur.timing import latency
from secateur.timing.children import Child, ModuleFiles, children
from secateur.timing.entrants import Entrant

HANGS = (sys.executable, "-c", "import time; print('{}', flush=True); time.sleep(60)")
DIES = (sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('out of memory')")
ECHOES = (sys.executable, "-c", "import sys, os\nfor line in sys.stdin: print(line.strip(), flush=True)")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_that_hangs_is_named_and_ended() -> None:
    with Child("slow", timeout_s=30, command=HANGS) as child:
        assert child.answer() == {}  # it runs
        child.timeout_s = 0.2
        with pytest.raises(SecateurError, match=r"times slow gave no answer within 0.2 s"):
            child.seconds(1)
    assert gone(child.pid)


def test_a_child_that_dies_is_named_with_its_last_words() -> None:
    words = "times frail ended with code 1; its last words: out of memory"
    with Child("frail", command=DIES) as child, pytest.raises(SecateurError, match=words):
        child.seconds(1)
    assert gone(child.pid)


def test_an_answer_comes_in_whatever_pieces() -> None:
    with Child("echo", command=ECHOES) as child:
        child.send({"seconds": 0.5, "long": "x" * 200_000})
        assert child.answer()["seconds"] == 0.5


def test_networks_are_timed_in_fresh_processes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    start = time.perf_counter()
    timings = latency({"dense": net}, torch.zeros(1, 3, 8, 8), batches=(2,), rounds=6, processes=2, budget_s=60)
    seconds = time.perf_counter() - start
    assert [(t.direction, t.processes, len(t.samples_ms)) for t in timings] == [("forward", 2, 6), ("backward", 0, 6)]
    forward = timings[0]
    assert min(forward.samples_ms) > 0
    assert forward.calls * sum(forward.samples_ms) < 1e3 * seconds


def test_a_refusal_reaches_the_caller_in_the_runtimes_words(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"not a network")
    entrant = Entrant("a", tmp_path / "broken.pt2", "pytorch", trust=True)
    words = r"^a in pytorch cannot be timed in a process of its own: .*broken\.pt2 cannot be read"
    with pytest.raises(InputError, match=words), children([entrant], torch.zeros(1, 3)):
        pytest.fail("opened a damaged file")


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_setting_with_a_module_that_cannot_be_exported_stays_in_this_process() -> None:
    nets = {"dense": nn.Conv2d(3, 8, 3), "odd": Untraceable()}
    timings = latency(nets, torch.zeros(1, 3, 8, 8), batches=(1,), rounds=3, processes=1, backward=False)
    assert [(t.model, t.processes) for t in timings] == [("dense", 0), ("odd", 0)]


def test_files_of_modules_go_with_the_block() -> None:
    net = nn.Linear(3, 2)
    with ModuleFiles() as files:
        entrant = Entrant("a", net, "pytorch")
        found = files.of([entrant], torch.zeros(2, 3))
        again = files.of([entrant], torch.zeros(5, 3))
        assert found is not None
        assert found == again  # a free batch size: written once
        file = found[0].network
        assert isinstance(file, Path)
        assert file.is_file()
        folder = file.parent
    assert not folder.exists()
