"""Networks as training loops hold them: parallel, compiled, sharded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))  # fmt: skip


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def trained(net: Any, optimizer: Any, x: Tensor) -> None:
    optimizer.zero_grad()
    net(x).pow(2).mean().backward()
    optimizer.step()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="PyTorch without Gloo"
)


@gloo
def test_a_network_that_trains_in_parallel_goes_on(processes: None) -> None:
    parallel, x = nn.parallel.DistributedDataParallel(network()), images()
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
    trained(parallel, optimizer, x)
    pruned = secateur.prune(parallel, x, ratio=0.5)
    assert type(pruned.model) is nn.Sequential
    carried = pruned.carry(optimizer)
    kept = list(pruned.plan.keep["0.weight"][0])
    buffers = carried.state[pruned.model[0].weight]["momentum_buffer"]
    assert torch.equal(buffers, optimizer.state[parallel.module[0].weight]["momentum_buffer"][kept])
    again = nn.parallel.DistributedDataParallel(pruned.model)
    before = pruned.model[0].weight.detach().clone()
    trained(again, carried, x)
    assert not torch.equal(before, pruned.model[0].weight)


@gloo
@pytest.mark.parametrize("case", ["goes_on", "layers", "graph", "along", "older", "apart"])
def test_a_network_that_is_sharded_over_two_processes(case: str, tmp_path: Path) -> None:
    worker = Path(__file__).with_name("sharded_worker.py")
    command = [sys.executable, "-W", "ignore", str(worker), case]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert all(text.rstrip().endswith("right") for text in said), "\n".join(said)


@gloo
def test_shards_of_another_kind_are_refused_in_one_sentence(processes: None) -> None:
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    tensor = pytest.importorskip("torch.distributed.tensor")
    alone = network()
    alone[0].weight = nn.Parameter(tensor.distribute_tensor(alone[0].weight.detach(), mesh, [tensor.Shard(0)]))
    with pytest.raises(InputError, match=r"'0.weight' is sharded over processes.*gather the weights"):
        secateur.prune(alone, images(), ratio=0.5)


def test_a_compiled_network_goes_on() -> None:
    x, compiled = images(), torch.compile(network(), backend="eager")
    optimizer = torch.optim.Adam(compiled.parameters())
    trained(compiled, optimizer, x)
    pruned = secateur.prune(compiled, x, ratio=0.5)
    assert type(pruned.model) is nn.Sequential
    again = torch.compile(pruned.model, backend="eager")
    trained(again, pruned.carry(optimizer), x)
    assert torch.allclose(again.eval()(x), pruned.model(x))
