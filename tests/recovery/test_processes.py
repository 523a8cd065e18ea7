"""Samples shared by processes give what one process makes of all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import secateur
from secateur.core.errors import InputError

from . import process_worker as worker

gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="PyTorch without Gloo"
)


@gloo
def test_two_processes_with_half_of_the_samples_each_are_one_with_all(tmp_path: Path) -> None:
    command = [sys.executable, worker.__file__]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    net, x = worker.given()
    want = secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x, dense=net).model.state_dict()
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[n], two[n]) for n in want)
    assert all(torch.allclose(one[n], want[n], rtol=1e-9, atol=1e-10) for n in want)


def test_what_cannot_be_added_up_is_said() -> None:
    net, x = worker.given()
    cut = secateur.prune(net, x[:2], ratio=0.5)
    with pytest.raises(InputError, match="adds up the sums of 'least_squares' and 'scale'; got method='bias'"):
        secateur.recover(cut, x, dense=net, over_processes=True, method="bias")
    with pytest.raises(InputError, match=r"there are none: call torch\.distributed\.init_process_group first"):
        secateur.recover(cut, x, dense=net, over_processes=True)
