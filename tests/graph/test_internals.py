"""What the recorder needs of PyTorch's private parts: each test says what breaks when one goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import internals
from secateur.graph.guard import require
from secateur.graph.numbers import Free, Log


def test_operators_are_seen_whole_under_inference_mode() -> None:
    """Without it, criteria and rules would meet the parts of attention and of recurrent layers."""
    seen: list[str] = []

    class See(internals.OperatorMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x, weight = torch.empty(2, 3, 8, device="meta"), torch.empty(4, 8, device="meta")
    with torch.inference_mode(), See():  # type: ignore[no-untyped-call]
        nn.functional.scaled_dot_product_attention(x, x, x)
        nn.functional.linear(x, weight)
    assert seen == ["aten.scaled_dot_product_attention.default", "aten.linear.default"]


def test_reads_of_attributes_are_seen() -> None:
    """Without it, a tensor without values would say that it is on no device, and autocast would refuse it."""

    class Here(internals.FunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
                return torch.device("cpu")
            return func(*args, **(kwargs or {}))

    with Here():
        assert torch.empty(1, device="meta").device == torch.device("cpu")


def test_libraries_see_a_tracer_and_flags_come_back() -> None:
    """Without it, transformers and others read values of masks, which the recorder cannot follow."""
    before = torch.compiler.is_exporting(), torch.compiler.is_compiling(), torch.backends.mha.get_fastpath_enabled()
    with internals.exporting():
        assert torch.compiler.is_exporting()
        assert torch.compiler.is_compiling()
        assert not torch.backends.mha.get_fastpath_enabled()
    assert before == (
        torch.compiler.is_exporting(), torch.compiler.is_compiling(), torch.backends.mha.get_fastpath_enabled()
    )  # fmt: skip


def test_a_graph_takes_and_gives_containers() -> None:
    """Without it, a pruned graph would take flat lists of tensors in place of the user's arguments."""
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output((graph.call_function(torch.add, (x, y)),))
    _, inputs = internals.pytree.tree_flatten(((torch.ones(1),), {"y": torch.ones(1)}))
    _, outputs = internals.pytree.tree_flatten({"sum": torch.ones(1)})
    graph._codegen = internals.codegen(["x", "y"], inputs, outputs)
    found = internals.LazyGraphModule(nn.Module(), graph)(torch.ones(1), y=torch.ones(1))
    assert isinstance(found["sum"], Tensor)
    assert found["sum"].tolist() == [2.0]


def test_sizes_keep_numbers_that_remember_where_they_come_from() -> None:
    """Without it, nothing besides the batch would be free in a graph: PyTorch would hand out plain numbers."""
    log = Log()
    size = torch.Size([Free(5, 3, ("dim", "x", 0), log), 4])
    first, _ = size
    assert isinstance(first, Free)
    assert isinstance(size[:1][0], Free)
    assert torch.empty(size, device="meta").shape == (5, 4)


def test_parts_of_a_structure_are_found_under_either_name() -> None:
    """Without it, no artifact could say how a network is called."""
    _, spec = internals.pytree.tree_flatten((1, [2, 3]))
    assert [part.num_leaves for part in internals.parts_of(spec)] == [1, 2]


def test_guards_are_not_taken_out_as_dead_code() -> None:
    """Without it, a graph would be wrong in silence at a size at which the network goes another way."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    size = graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
    graph.call_function(require, (size, "lt", 9, True))
    graph.output((x,))
    graph.eliminate_dead_code()
    assert require in [node.target for node in graph.nodes]


def test_what_sharding_remembers_is_found(tmp_path: Path) -> None:
    """Without it, sharded networks would be refused, or not sharded again as they were."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("PyTorch without Gloo")
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        fsdp.fully_shard(net[0], mesh=mesh, reshard_after_forward=False)
        state = internals.sharding_state(net[0])
        assert internals.sharding_state(net[1]) is None
        assert type(net[0]).__mro__[type(net[0])._orig_cls_mro_index] is nn.Linear
        assert [module is net[0] for module in state._modules] == [True]
        (group,) = state._fsdp_param_groups
        assert (group.mesh_info.mesh, group.post_forward_mesh_info) == (mesh, None)
        assert not state._auto_reshard_after_forward
        older = fsdp.FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"))
        assert internals.flat_wrapper(older) is older
        assert internals.flat_wrapper(older.module) is None
        assert older.process_group is not None
    finally:
        distributed.destroy_process_group()
