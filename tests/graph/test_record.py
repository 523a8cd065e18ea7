"""The recorder: what it writes down is what ``torch.export`` traces, or it says that it cannot follow."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.types import ExampleInputs
from secateur.graph.batch import NEAR, PRIMES, Unfollowed
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.record import record
from secateur.graph.trace import trace, without_recorder
from zoo import ZOO, settle


def both(model: nn.Module, inputs: ExampleInputs) -> list[Any]:
    with without_recorder():
        exported = trace(model, inputs)
    return [trace(model, inputs), exported]


def units(traced: Any) -> list[Any]:
    return [(g.name, len(g), [(m.parameter, m.dim) for m in g.members]) for g in solve(flow(traced)).items]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_same_groups_and_outputs_as_through_export(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = ZOO[name]()
    settle(model)
    recorded, exported = both(model, inputs)
    assert recorded.recorded
    assert not exported.recorded
    assert units(recorded) == units(exported)
    assert recorded.any_batch == exported.any_batch
    with torch.no_grad():
        torch.manual_seed(0)
        got = recorded.module(*recorded.args, **recorded.kwargs)
        torch.manual_seed(0)
        want = exported.module(*exported.args, **exported.kwargs)
    torch.testing.assert_close(got, want)


class Of(nn.Module):
    """A network whose forward is a function of two layers and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)
        self.table = torch.arange(8.0)  # a plain attribute
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def test_a_number_that_is_written_pins_nothing() -> None:
    """``y[:, 0] = 1.0`` arrives as a copy of a tensor that is spread, whose entries no label would know."""

    def writes(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:1] = 0.5
        return m.b(y)  # type: ignore[no-any-return]

    recorded, exported = both(Of(writes).eval(), torch.randn(3, 4))
    assert recorded.recorded
    assert units(recorded) == units(exported)
    assert [size for _, size, _ in units(recorded)] == [8]


def plain(m: Any, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(m.a(x) * m.table),
        lambda m, x: m.b(m.a(x) * torch.arange(8.0, device=x.device)),
        lambda m, x: m.b(torch.cat([m.a(x), m.a(x)[:1]])),  # one more than the batch
        lambda m, x: m.b(m.a(x).view(x.shape[0] * 2, 4).view(-1, 8)),
        lambda m, x: m.b(torch.zeros(x.shape[0], 8) + m.a(x)),
        lambda m, x: torch.cat([m.b(m.a(x)), x.new_zeros(x.shape[0] * 3 + 1, 4)]),
        lambda m, x: m.b(m.a(x)[: x.shape[0] - 1].repeat(2, 1)),
        lambda m, x: m.b(m.a(x).to(x.device).cpu()),
        lambda m, x: m.b(m.a(x)[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])]),
        lambda m, x: m.b(m.a(x).sum(0, keepdim=True) / x.shape[0]),
    ],
)
def test_sizes_that_follow_the_batch_stay_free(function: Callable[[Any, Tensor], Any]) -> None:
    model, x = Of(function).eval(), torch.randn(2, 4)
    traced = trace(model, x)
    assert traced.recorded
    assert traced.any_batch
    for batch in (2, 3, 7):
        more = torch.randn(batch, 4)
        with torch.no_grad():
            torch.testing.assert_close(traced.module(more), model(more))


def test_a_batch_that_has_to_be_even_is_guarded() -> None:
    model = Of(lambda m, x: plain(m, x.view(x.shape[0] // 2, 2, 4)).flatten(0, 1)).eval()
    traced = trace(model, torch.randn(2, 4))
    assert traced.dynamic
    assert not traced.any_batch
    assert traced.sizes.shapes[0] == ((2, "batch"), 4)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: plain(m, x) * x.mean().item(), "value of a tensor"),
        (lambda m, x: plain(m, x) if bool((x > 0).all()) else x, "value of a tensor"),
        (lambda m, x: plain(m, x) * len(x.sum(1).tolist()), "values of a tensor"),
        (lambda m, x: plain(m, x) * float(x.detach().numpy().max()), "values of a tensor"),
        (lambda m, x: plain(m, x) if torch.rand(1).item() < 0.5 else x, "random number"),
        (lambda m, x: plain(m, x * m.table.mul_(0.5)[:4]), "plain attribute"),
    ],
)
def test_what_cannot_be_followed_is_said(function: Callable[[Any, Tensor], Any], reason: str) -> None:
    model = Of(function).eval()
    table = model.table.clone()
    with pytest.raises(Unfollowed, match=reason):
        record(model, torch.randn(2, 4))
    assert torch.equal(model.table, table)


@pytest.mark.parametrize(
    "loop",
    [
        lambda x: torch.stack([x[i] for i in range(x.shape[0])]),
        lambda x: torch.stack(list(x)),
        lambda x: torch.cat(x.split(1)),
        lambda x: torch.stack(x.unbind()),
    ],
)
def test_loops_over_the_batch_fix_it(loop: Callable[[Tensor], Tensor]) -> None:
    traced = trace(Of(lambda m, x: plain(m, loop(x))).eval(), torch.randn(3, 4))
    assert traced.recorded
    assert not traced.dynamic
    assert traced.batch == 3
    assert len(traced.nodes) < 40


def test_a_free_size_is_the_examples_in_the_graph() -> None:
    traced = trace(Of(plain).eval(), torch.randn(1, 4))
    assert [n.meta["val"].shape[0] for n in traced.nodes if n.op == "call_function"] == [2] * 3
    assert not any(isinstance(a, int) and a >= PRIMES[0] - NEAR for n in traced.nodes for a in n.args)


@pytest.mark.parametrize("prime", [0, 1])
def test_a_size_of_the_networks_own_is_never_taken_for_the_batch(prime: int) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.b = nn.Embedding(2 * PRIMES[prime] + 1, 2), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.embed(x) + self.embed.weight.mean(0))  # type: ignore[no-any-return]

    traced = trace(Large().eval(), torch.arange(3))
    assert traced.any_batch
    shapes = {n.target: tuple(n.meta["val"].shape) for n in traced.nodes if n.op == "get_attr"}
    assert shapes["embed.weight"] == (2 * PRIMES[prime] + 1, 2)


def test_constants_are_made_anew_in_every_call() -> None:
    def counting(m: Any, x: Tensor) -> Tensor:
        count = torch.tensor([1.0])
        count.add_(1)
        return plain(m, x) * count

    model, x = Of(counting).eval(), torch.randn(2, 4)
    traced = trace(model, x)
    assert traced.recorded
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(traced.module(x), model(x))


def test_hooks_functions_and_inference_mode_are_followed() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

    def function(m: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            y = m.a(x)
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            return m.b(Double.apply(y))  # type: ignore[no-any-return, no-untyped-call]

    model, x = Of(function).eval(), torch.randn(2, 4)
    model.a.register_forward_hook(lambda module, args, output: output + 1)
    model.b.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    traced = trace(model, x)
    assert traced.recorded
    with torch.no_grad():
        torch.testing.assert_close(traced.module(x), model(x))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (model, model.a, model.b)] == [0, 1, 1]


def test_other_threads_and_flags_are_left_alone() -> None:
    seen: list[bool] = []

    def function(m: Any, x: Tensor) -> Tensor:
        def other() -> None:
            seen.append(nn.Linear(2, 2)(torch.ones(1, 2)).is_meta)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return plain(m, x)

    flags = torch.compiler.is_compiling(), torch.backends.mha.get_fastpath_enabled()
    assert trace(Of(function).eval(), torch.randn(2, 4)).recorded
    assert seen
    assert not any(seen)
    assert flags == (torch.compiler.is_compiling(), torch.backends.mha.get_fastpath_enabled())


@dataclass
class Answer:
    scores: Tensor
    loss: Tensor | None = None


def test_keyword_inputs_and_objects_as_outputs() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor, *, scale: Tensor, twice: bool = False, pair: Any = None) -> Answer:
            y = self.b(self.a(x).relu()) * scale
            return Answer(y * 2 if twice else y)

    model, inputs = Keyed().eval(), {"x": torch.randn(2, 4), "scale": torch.randn(2, 4), "twice": True}
    traced = trace(model, inputs)
    assert traced.recorded
    assert traced.sizes.names == ("x", "scale", "twice")
    assert traced.sizes.values == (None, None, True)
    with torch.no_grad():
        found = traced.module(**inputs)
    torch.testing.assert_close(found["scores"], model(**inputs).scores)


@pytest.mark.parametrize("share", [lambda n: 1.0 / n, lambda n: n**0.5, lambda n: 1 / (2 * n) ** 0.5, lambda n: n / 3])
def test_numbers_that_python_computes_from_the_batch_are_seen(share: Callable[[int], float]) -> None:
    model, x = Of(lambda m, x: plain(m, x) * share(x.shape[0])).eval(), torch.randn(3, 4)
    with pytest.raises(Unfollowed, match="computes a number from the size of the batch"):
        record(model, x)
    traced = trace(model, x)
    with torch.no_grad():
        torch.testing.assert_close(traced.module(x), model(x))


@pytest.mark.parametrize("number", [1e-5, 1e-6, 1e-12, 0.5, 8**-0.5, 768**-0.5, 0.044715, math.sqrt(2 / math.pi), 1e4])
def test_usual_numbers_are_not_taken_for_those_of_a_batch(number: float) -> None:
    assert trace(Of(lambda m, x: plain(m, x) * number).eval(), torch.randn(3, 4)).any_batch


def test_a_proof_that_fails_on_a_recording_is_tried_on_an_export() -> None:
    def by_log(m: Any, x: Tensor) -> Tensor:
        return m.b(m.a(x).relu()) * math.log(x.shape[0])  # a number of Python's, which looks like a constant

    model, x = Of(by_log).eval(), torch.randn(3, 4)
    pruned = secateur.prune(model, x, ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.proven
    torch.testing.assert_close(pruned.model(x).shape, torch.Size([3, 4]))
    assert any("torch.export" in note for note in pruned.notes)


class StrideInBuffers(nn.Module):
    """What it pads is worked out with tensors, as EnCodec does."""

    stride: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 8, 4), nn.Conv1d(8, 2, 1)
        self.register_buffer("stride", torch.tensor(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.ceil(torch.as_tensor(x.shape[-1]) / self.stride).to(torch.int64)
        missing = frames * self.stride - x.shape[-1]
        if missing > 0:
            x = nn.functional.pad(x, (0, int(missing)))
        return self.last(self.first(x).relu())  # type: ignore[no-any-return]


def test_whole_numbers_in_buffers_can_be_read() -> None:
    net, x = StrideInBuffers(), torch.randn(2, 3, 10)
    traced = record(net, x)
    assert torch.equal(traced.module(x), net(x))
    pruned = secateur.prune(net, x, ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.model.first.out_channels == 4
    longer = torch.randn(1, 3, 17)
    assert pruned.model(longer).shape == net(longer).shape
    graph = secateur.prune(net, x, ratio=0.5, backend="graph")
    assert any("whole numbers in buffers" in note for note in graph.notes)
    assert graph.model(torch.randn(3, 3, 10)).shape == (3, 2, 9)


class Counts(nn.Module):
    """A number that the network changes itself stays without a value."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) if self.calls < 3 else x  # type: ignore[no-any-return]


def test_a_number_that_changes_is_not_taken_for_a_constant() -> None:
    with pytest.raises(Unfollowed, match="changes a constant"):
        record(Counts(), torch.randn(2, 3))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}])
def test_time_as_the_first_dimension_is_not_gone_through_step_by_step(kind: Any, options: dict[str, Any]) -> None:
    """The odd size that stands for a free first dimension is millions of steps."""

    class Time(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(3, 6, **options)
            self.head = nn.Linear(12 if options.get("bidirectional") else 6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0])

    torch.manual_seed(0)
    net, x = Time().eval(), torch.randn(5, 2, 3)
    assert record(net, x).dynamic
    small = secateur.prune(net, x, ratio=0.5)
    assert small.model.layer.hidden_size == 3
    longer = torch.randn(9, 2, 3)
    assert small(longer).shape == (9, 2, 4)
