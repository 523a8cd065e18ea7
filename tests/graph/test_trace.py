"""Tracing: clear words for networks that do not run or cannot be traced."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, TraceError, WeightsError
from secateur.graph.copies import shallow_copy
from secateur.graph.trace import trace, without_recorder
from zoo import ZOO, settle


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.sum() > 0:  # a line that no tracer can follow
            return y
        return -y


def test_untraceable_code_is_named_with_its_line() -> None:
    with pytest.raises(TraceError, match=r"Branches runs but.*test_trace\.py.*torch\.where"):
        secateur.prune(Branches(), torch.randn(2, 4), ratio=0.5)


def branch(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def counts(x: Tensor) -> Tensor:
    return x * len(torch.unique(x.round()))


def through_numpy(x: Tensor) -> Tensor:
    return x + torch.from_numpy(np.sin(x.detach().numpy()))


def memory(x: Tensor) -> Tensor:
    return x if x.data_ptr() else x * 2


def other_thread(x: Tensor) -> Tensor:
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(x * 2))
    thread.start()
    thread.join()
    return made[0]


def sparse(x: Tensor) -> Tensor:
    return torch.sparse.mm(x.to_sparse(), torch.eye(8))


def without_export(x: Tensor) -> Tensor:
    if torch.compiler.is_exporting():
        raise NotImplementedError("this network cannot be exported")
    return x


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branch, r"by the value of a tensor, at test_trace.py:\d+, 'return x \* 2 if.*torch\.where"),
        (counts, r"by the value of a tensor, at test_trace.py:\d+, 'return x \* len"),
        (
            through_numpy,
            r"reads the memory of a tensor, at test_trace.py:\d+, 'return x \+ torch.from_numpy.*custom_op",
        ),
        (memory, r"reads the memory of a tensor, at test_trace.py:\d+, 'return x if x.data_ptr"),
        (other_thread, r"in another thread say, at test_trace.py:\d+, "),
        (sparse, r"the operator aten\._to_sparse\.default does not say.*, at test_trace.py:\d+, 'return torch.sparse"),
        (without_export, r"NotImplementedError: this network cannot be exported, at test_trace.py:\d+"),
    ],
)
def test_the_true_reason_is_named_and_nothing_else_is_printed(
    function: Callable[[Tensor], Tensor], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(function(self.a(x)))  # type: ignore[no-any-return]

    with pytest.raises(TraceError, match=reason) as caught:
        secateur.prune(Network(), torch.randn(3, 4), ratio=0.5)
    assert ("torch.where" in str(caught.value)) == (function in (branch, counts))
    assert capfd.readouterr() == ("", "")


def test_what_a_network_prints_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Talks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            print("a warning", file=sys.stderr)
            return self.b(self.a(x) * x.sum().item())  # type: ignore[no-any-return]

    with without_recorder():
        trace(Talks(), torch.randn(3, 4))
    assert "a warning" in capfd.readouterr().err


def test_wrong_shapes_are_the_networks_own_error() -> None:
    model, _ = ZOO["plain"]()
    with pytest.raises(InputError, match=r"\(2, 5, 8, 8\).*expected input"):
        secateur.prune(model, torch.randn(2, 5, 8, 8), ratio=0.5)


@pytest.mark.parametrize("inputs", [None, 3, "x", ()])
def test_inputs_of_no_use(inputs: object) -> None:
    with pytest.raises(InputError, match="example_inputs"):
        secateur.prune(nn.Linear(2, 2), inputs, ratio=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_unsound_weights_are_refused_by_name(value: float) -> None:
    model, x = ZOO["plain"]()
    with torch.no_grad():
        model[2][0].weight[3, 1] = value  # type: ignore[index]
    with pytest.raises(WeightsError, match=r"2\.0\.weight.*9 NaN or infinite"):
        secateur.prune(model, x, ratio=0.5)


def test_a_batch_of_one_is_traced_with_a_free_batch() -> None:
    model, x = ZOO["batch_of_one"]()
    traced = trace(model, x)
    assert traced.dynamic
    assert traced.module(x.repeat(5, 1, 1, 1)).shape == (5, 4)


def test_kwargs_and_several_inputs_keep_a_free_batch() -> None:
    model, inputs = ZOO["several_inputs_and_outputs"]()
    traced = trace(settle(model), inputs)
    assert traced.dynamic
    assert traced.module(**{k: v.repeat(2, 1, 1, 1)[:3] for k, v in inputs.items()})["sum"].shape[0] == 3


def test_a_network_with_a_fixed_batch_still_traces() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)).reshape(2, 8))

    pruned = secateur.prune(settle(Fixed()), torch.randn(2, 4), ratio=0.5)
    assert pruned.after.params == 4 * 4 + 4 + 3 * 4 + 3


def test_a_shallow_copy_shares_weights_but_not_modes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    twin = shallow_copy(model).eval()
    assert twin[0].weight is model[0].weight  # type: ignore[index]
    assert model.training
