"""One of two processes of a sharded training loop: ``sharded_worker.py CASE RANK FOLDER``; prints ``right`` last."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard

import secateur
from secateur.core.errors import InputError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 22), nn.Linear(22, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks, self.head = nn.Linear(6, 12), nn.ModuleList(Block() for _ in range(3)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


def inputs() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def sharded(mesh: Any, **settings: Any) -> Net:
    net = Net()
    for number, block in enumerate(net.blocks):
        fully_shard(block, mesh=mesh, reshard_after_forward=bool(number % 2), **settings)
    fully_shard(net, mesh=mesh, **settings)
    return net


def trained(net: nn.Module, optimizer: Any) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        net(inputs()).pow(2).mean().backward()
        optimizer.step()


def full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def same(one: nn.Module, other: nn.Module) -> None:
    a, b = dict(one.named_parameters()), dict(other.named_parameters())
    assert list(a) == list(b), (list(a), list(b))
    for name, value in a.items():
        assert torch.allclose(full(value), full(b[name]), atol=1e-6), name


def places(net: nn.Module) -> list[tuple[str, Any]]:
    """Where a network is sharded, and how."""
    found = []
    for name, module in net.named_modules():
        if isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            for group in state._fsdp_param_groups:
                auto = state._auto_reshard_after_forward  # the outermost module then keeps its weights, once it is run
                after = None if auto else group.post_forward_mesh_info is not None
                found.append((name, (group.mesh_info.mesh, after, group.mp_policy)))
    return found


def goes_on(mesh: Any) -> None:
    """Trained, cut, trained on, cut again, beside a network that is not sharded."""
    plain, net = Net(), sharded(mesh, mp_policy=MixedPrecisionPolicy(output_dtype=torch.float32))
    before = places(net)
    ones = [torch.optim.AdamW(n.parameters(), lr=0.05, foreach=False) for n in (plain, net)]
    for n, o in zip((plain, net), ones, strict=True):
        trained(n, o)
    want = secateur.prune(plain, inputs(), ratio=0.5, ignore=plain.stem)
    got = secateur.prune(net, inputs(), ratio=0.5, ignore=net.stem)
    assert got.plan.keep == want.plan.keep
    assert got.plan.keep
    assert got.verification is not None
    assert got.verification.proven
    assert places(got.model) == places(net) == before
    assert type(got.model).__name__ == "FSDPNet"
    local = got.model.blocks[0].up.weight.to_local()
    assert local.shape[0] < got.model.blocks[0].up.weight.shape[0]
    same(got.model, want.model)
    carried = [p.carry(o) for p, o in ((want, ones[0]), (got, ones[1]))]
    for a, b in zip(want.model.parameters(), got.model.parameters(), strict=True):
        for key, value in carried[0].state[a].items():
            assert torch.allclose(full(carried[1].state[b][key]), value, atol=1e-6), key
    for n, o in zip((want.model, got.model), carried, strict=True):
        trained(n, o)
    same(got.model, want.model)
    again = secateur.prune(got, ratio=0.5)
    assert again.plan.keep == secateur.prune(want, ratio=0.5).plan.keep
    assert again.carry(carried[1]).state
    same(net, plain)  # as it was


def layers(mesh: Any) -> None:
    """A layer goes; the others are sharded where they were."""
    net, plain = sharded(mesh), Net()
    got = secateur.remove_layers(net, inputs(), names=["blocks.1"])
    want = secateur.remove_layers(plain, inputs(), names=["blocks.1"])
    same(got.model, want.model)
    kept = [name for name, _ in places(got.model)]
    assert kept == [n for n, m in want.model.named_modules() if not n or type(m) is Block], kept
    assert torch.allclose(full(got.model(inputs())), want.model(inputs()), atol=1e-6)


def graph(mesh: Any) -> None:
    """A graph has no modules to be sharded by, so it is sharded as a whole."""
    got = secateur.prune(sharded(mesh), inputs(), ratio=0.5, backend="graph")
    assert [name for name, _ in places(got.model)] == [""]
    assert any("sharded as a whole" in note for note in got.notes), got.notes
    assert got.model(inputs()).shape == (4, 3)


def along(mesh: Any) -> None:
    """Shards along another dimension stay, where it can be divided."""
    from torch.distributed.tensor import Shard

    net = sharded(mesh, shard_placement_fn=lambda p: Shard(1) if p.ndim == 2 and p.shape[1] == 22 else None)
    got = secateur.prune(net, inputs(), ratio=0.3, scope="global", ignore="stem")
    odd = [b.down.weight for b in got.model.blocks]
    assert [w.placements[0].dim for w in odd] == [1 - w.shape[1] % 2 for w in odd], [tuple(w.shape) for w in odd]
    assert any("first dimension" in n for n in got.notes) == any(w.shape[1] % 2 for w in odd)


def older(mesh: Any) -> None:
    """The older wrapper comes off, and a note says so; plain and flat parameters, wrappers inside others."""
    for names in (True, False):
        net, plain = Net(), Net()
        for number in range(3):
            net.blocks[number] = wrapped(net.blocks[number], names)
        whole = wrapped(net, names)
        before = whole(inputs())
        got = secateur.prune(whole, inputs(), ratio=0.5)
        want = secateur.prune(plain, inputs(), ratio=0.5)
        assert type(got.model) is Net
        assert got.plan.keep == want.plan.keep
        same(got.model, want.model)
        assert any("FullyShardedDataParallel was not put around" in note for note in got.notes)
        assert torch.allclose(whole(inputs()), before)
        trained(wrapped(got.model, names), torch.optim.SGD(got.model.parameters(), lr=0.1))


def wrapped(module: nn.Module, names: bool) -> Any:
    return FullyShardedDataParallel(module, use_orig_params=names, device_id=torch.device("cpu"))


def apart(mesh: Any) -> None:
    """Processes that come to different cuts are told so, all of them; and so are those beside one that fails."""
    rank = dist.get_rank()
    for ratio in (0.3 + 0.2 * rank, 0.3 + rank):
        words = "ratio is" if ratio > 1 else "The processes came to 2 different cuts"
        with pytest.raises(InputError, match=words):
            secateur.prune(sharded(mesh), inputs(), ratio=ratio)


if __name__ == "__main__":
    case, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    globals()[case](dist.device_mesh.init_device_mesh("cpu", (2,)))
    dist.barrier()
    dist.destroy_process_group()
    print("right")
