"""One of two processes that repair the same network, each on half of the samples: RANK FOLDER."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

import secateur


def given() -> tuple[nn.Module, Tensor]:
    """A network and samples, the same in every process."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(8 * 36, 4)).double().eval(), torch.randn(64, 3, 8, 8).double()


def main() -> None:
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    net, x = given()
    cut = secateur.prune(net, x[:2], ratio=0.5)
    fixed = secateur.recover(cut, x.chunk(2)[rank], dense=net, over_processes=True)
    torch.save(fixed.model.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
