"""Networks prepared for quantisation: fake quantisers and observers follow the cut, and training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, VerificationError
from secateur.graph.schema import bound
from secateur.graph.trace import trace
from secateur.graph.writes import written_names
from secateur.surgery import prune_module, verify
from secateur.surgery.imitated import fake_quantised

quantization = pytest.importorskip("torch.ao.quantization")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
aten = torch.ops.aten


class Floating(nn.Module):
    """Convolutions with batch norm, one of them by channel, a skip, a gate and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.wide, self.deep, self.back = (
            nn.Conv2d(16, 24, 1),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24),
            nn.Conv2d(24, 16, 1),
        )
        self.relu, self.gate, self.pool = nn.ReLU(), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1)
        self.one, self.two = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.sum(x, self.back(self.gate(self.deep(self.relu(self.wide(x))))))
        return self.two(self.relu(self.one(torch.flatten(self.pool(x), 1))))  # type: ignore[no-any-return]

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Stubbed(Floating):
    """The same, as eager mode wants it."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.nn.quantized import FloatFunctional

        self.into, self.out, self.add = quantization.QuantStub(), quantization.DeQuantStub(), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(super().forward(self.into(x)))  # type: ignore[no-any-return]

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        return self.add.add(a, b)  # type: ignore[no-any-return]


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(net: nn.Module, optimizer: Any = None, steps: int = 3) -> Any:
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        net(images()).pow(2).mean().backward()
        optimizer.step()
    return optimizer


def eager(version: int = 1, fuse: bool = False, config: Any = None) -> nn.Module:
    net = Stubbed().train()
    net.qconfig = config or quantization.get_default_qat_qconfig("fbgemm", version=version)
    if fuse:
        net = quantization.fuse_modules_qat(net, [["stem", "norm", "relu"]])
    return quantization.prepare_qat(net)  # type: ignore[no-any-return]


def by_fx() -> nn.Module:
    fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    mapping = quantization.get_default_qat_qconfig_mapping("fbgemm")
    return fx.prepare_qat_fx(Floating().train(), mapping, (images(),))  # type: ignore[no-any-return]


def with_histograms() -> nn.Module:
    fake = quantization.FakeQuantize.with_args
    return eager(config=quantization.QConfig(
        activation=fake(observer=quantization.HistogramObserver, quant_min=0, quant_max=255),
        weight=quantization.default_per_channel_weight_fake_quant))  # fmt: skip


WAYS: dict[str, Callable[[], nn.Module]] = {
    "fused": eager, "asking": lambda: eager(0), "folded": lambda: eager(fuse=True), "histograms": with_histograms,
    "one scale a tensor": lambda: eager(config=quantization.get_default_qat_qconfig("qnnpack", version=0)), "fx": by_fx,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_prepared_networks_are_cut_and_train_on(way: str) -> None:
    net = WAYS[way]()
    optimizer = trained(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = secateur.prune(net, images(), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert not pruned.lost
    assert type(pruned.model).__name__ == type(net).__name__
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name  # neither weights nor what observers have seen
    small = dict(pruned.model.state_dict())
    for name, value in small.items():
        kept = {int(d): torch.tensor(k) for d, k in pruned.plan.keep.get(name, {}).items()}
        want = before[name]
        for dim, index in kept.items():
            want = want.index_select(dim, index)
        assert torch.equal(value, want), name  # observed ranges, too, are those of the channels that stay
    small = {name: value.clone() for name, value in small.items()}
    trained(pruned.model, pruned.carry(optimizer))
    seen = [n for n, v in pruned.model.state_dict().items() if n.endswith("max_val") and not torch.equal(v, small[n])]
    assert seen  # it observes on


@pytest.mark.parametrize("criterion", ["reconstruction", "taylor", "apoz", "mean_activation"])
def test_criteria_that_run_it_on_data_leave_no_trace(criterion: str) -> None:
    net = eager()
    trained(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = images(), torch.tensor([0, 1, 2, 3])
    pruned = secateur.prune(net, images(), ratio=0.5, criterion=criterion, data=[batch])
    assert pruned.verification is not None
    held = {name: value.clone() for name, value in pruned.model.state_dict().items()}
    secateur.recover(pruned, images())
    for now, then in ((net.state_dict(), before), (pruned.model.state_dict(), held)):
        assert not [name for name, value in then.items() if not torch.equal(now[name], value)]


def test_scales_of_channels_go_with_their_channels() -> None:
    net = eager()
    trained(net)
    keep = secateur.prune(net, images(), ratio=0.5).plan.keep
    rows = keep["wide.weight"][0]
    for leaf in ("scale", "zero_point", "activation_post_process.min_val", "activation_post_process.max_val"):
        assert keep[f"wide.weight_fake_quant.{leaf}"] == {0: rows}
    assert not [name for name in keep if name.startswith(("wide.activation_post_process", "two.weight_fake_quant"))]


@pytest.mark.parametrize("way", ["folded", "fx"])
def test_what_was_cut_is_converted(way: str) -> None:
    net = WAYS[way]()
    trained(net)
    small = secateur.prune(net, images(), ratio=0.5).model
    trained(small, torch.optim.SGD(small.parameters(), lr=1e-4), steps=200)  # until the ranges have followed
    small.eval()
    if way == "fx":
        ready = pytest.importorskip("torch.ao.quantization.quantize_fx").convert_fx(small)
    else:
        ready = quantization.convert(small)
    assert any("quantized" in type(m).__module__ for m in ready.modules())
    step = float(next(v for n, v in small.state_dict().items() if n.endswith("scale") and "weight" not in n))
    assert (ready(images()) - small(images())).abs().max() < 5 * step


class Blocks(nn.Module):
    """Two sums that are observed."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.nn.quantized import FloatFunctional

        torch.manual_seed(0)
        self.into, self.out = quantization.QuantStub(), quantization.DeQuantStub()
        self.stem, self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.first, self.second = FloatFunctional(), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.into(x))
        x = self.first.add(x, torch.tanh(self.one(x)))
        x = self.second.add(x, torch.tanh(self.two(x)))
        return self.out(self.head(x))  # type: ignore[no-any-return]


def test_branches_whose_weights_are_rounded_can_go() -> None:
    net = Blocks().train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    ready, x = quantization.prepare_qat(net), torch.randn(4, 6)
    ready(x)
    before = {name: value.clone() for name, value in ready.state_dict().items()}
    assert {b.name for b in secateur.removable(ready, x)} == {"one", "two"}
    pruned = secateur.remove_layers(ready, x, names=["two"])
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert not [n for n, _ in pruned.model.named_parameters() if n.startswith("two")]
    assert not [name for name, value in ready.state_dict().items() if not torch.equal(value, before[name])]


def test_a_graph_that_torchao_prepared_is_cut_and_converted() -> None:
    library = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    quantisers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    how = quantisers.XNNPACKQuantizer().set_global(quantisers.get_symmetric_quantization_config(is_qat=True))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(24, 5))  # fmt: skip
    graph = torch.export.export(net.train(), (images(),)).module()
    ready = library.prepare_qat_pt2e(graph, how)
    ready(images())
    before = {name: value.clone() for name, value in ready.state_dict().items()}
    pruned = secateur.prune(ready, images(), ratio=0.5)
    assert pruned.backend == "module"
    assert not [name for name, value in ready.state_dict().items() if not torch.equal(value, before[name])]
    small = pruned.model
    small(images()).pow(2).mean().backward()
    pytest.importorskip("torchao.quantization.pt2e").move_exported_model_to_eval(small)
    converted = library.convert_pt2e(small)
    assert (converted(images()) - small(images())).abs().max() < 0.1
    graph = torch.export.export(Floating().train(), (images(),)).module()  # with a number of groups in its code
    ready = library.prepare_qat_pt2e(graph, how)
    ready(images())
    assert secateur.prune(ready, images(), ratio=0.5).backend == "graph"


def test_observers_before_quantisation_without_training_follow() -> None:
    net = Stubbed().eval()
    net.qconfig = quantization.get_default_qconfig("fbgemm")
    ready = quantization.prepare(net)
    ready(images())
    pruned = secateur.prune(ready, images(), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert quantization.convert(pruned.model)(images()).shape == (4, 5)


def test_sums_that_are_to_be_observed_are_no_quantised_modules() -> None:
    assert secateur.prune(Stubbed().eval(), images(), ratio=0.5).verification is not None


def test_the_graph_back_end_and_artifacts(tmp_path: Path) -> None:
    net = eager()
    trained(net)
    graph = secateur.prune(net, images(), ratio=0.5, backend="graph").model.eval()
    module = secateur.prune(net, images(), ratio=0.5)
    for twin in (graph, module.model.eval()):  # what observes gives something else every time
        for name, flag in twin.named_buffers():
            flag.fill_(0) if name.endswith("observer_enabled") else None
    assert torch.allclose(graph(images()), module.model(images()), atol=1e-6)
    module.save(tmp_path / "small")
    again = secateur.load(tmp_path / "small", model=eager_run())
    held = module.model.state_dict()
    assert all(torch.equal(v, held[n]) for n, v in again.model.state_dict().items())


def eager_run() -> nn.Module:
    net = eager()
    net(images())
    return net


def test_what_has_seen_nothing_and_what_is_of_its_own_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"'\w+.*' imitates quantisation.*seen no numbers yet.*run the network"):
        secateur.prune(eager(), images(), ratio=0.5)
    base = quantization.FakeQuantize

    class Own(base):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    net = nn.Sequential(nn.Linear(4, 8), Own(quantization.MovingAverageMinMaxObserver, 0, 255), nn.Linear(8, 2))
    net[1].disable_observer()
    with pytest.raises(InputError, match=r"'1' imitates quantisation in a way of its own \(Own\).*prune the float"):
        secateur.prune(net, torch.randn(2, 4), ratio=0.5)


def test_wrong_zero_points_and_wrong_limits_are_seen() -> None:
    net = eager().eval()
    net(images())
    groups = secateur.analyse(net, images()).groups
    label_keep = groups.label_keep(np.arange(groups.units) % 2 == 0)
    keep = {name: {d: np.flatnonzero(m).tolist() for d, m in groups.masks(labels, label_keep).items()}
            for name, labels in groups.flow.tensors.items()}  # fmt: skip
    small = prune_module(net, keep)
    assert verify(small, groups, label_keep, keep).proven
    small.get_submodule("wide.activation_post_process.activation_post_process").quant_max //= 2
    with pytest.raises(VerificationError, match="differs from the masked dense one"):
        verify(small, groups, label_keep, keep)
    other = prune_module(net, keep)
    other.get_buffer("wide.weight_fake_quant.zero_point").add_(1)
    with pytest.raises(VerificationError, match=r"'wide.weight_fake_quant.zero_point'.*not the part"):
        verify(other, groups, label_keep, keep)


# --------------------------------------------------------------------------------------------------- operators

X = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2)) * 3
SCALE, ZERO = torch.tensor([0.1, 0.02, 0.3, 0.05]), torch.tensor([0, 3, 1, 7], dtype=torch.int32)
ONE, OFF = torch.ones(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(("func", "args"), [
    (aten.fake_quantize_per_tensor_affine.default, (X, 0.1, 3, -128, 127)),
    (aten.fake_quantize_per_tensor_affine.tensor_qparams, (X, SCALE[:1], ZERO[1:2], 0, 127)),
    (aten.fake_quantize_per_channel_affine.default, (X, SCALE, ZERO, 1, 0, 127)),
    (aten._fake_quantize_learnable_per_tensor_affine.default, (X, SCALE[:1], torch.tensor([3.0]), 0, 127)),
    (aten._fake_quantize_learnable_per_channel_affine.default, (X, SCALE, ZERO.float(), 1, 0, 127)),
    (aten.fused_moving_avg_obs_fake_quant.default,
     (X, OFF, ONE, SCALE, SCALE, SCALE, ZERO, 0.01, 0, 127, 1, True, False)),
    (aten.fused_moving_avg_obs_fake_quant.default,
     (X, OFF, OFF, SCALE, SCALE, SCALE, ZERO, 0.01, 0, 127, 1, True, False)),
    (aten._fused_moving_avg_obs_fq_helper.default,
     (X, OFF, ONE, SCALE[:1], SCALE[:1], SCALE[:1], ZERO[:1], 0.01, 0, 127, -1, False, False)),
])  # fmt: skip
def test_double_precision_computes_what_pytorch_computes(func: Any, args: tuple[Any, ...]) -> None:
    want = func(*args)
    wide = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    got = fake_quantised(func, wide, {})
    for a, b in zip(
        got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,), strict=True
    ):
        assert a.shape == b.shape
        assert torch.allclose(a.float(), b.float(), atol=1e-5)
    assert "quant_min" in bound(func, args, {})


def test_means_of_steps_round_the_same_way_whatever_their_last_bit() -> None:
    x = torch.tensor([0.05, 0.05 * (1 + 1e-15), 0.05 * (1 - 1e-15)], dtype=torch.float64)
    found = fake_quantised(aten.fake_quantize_per_tensor_affine.default, (x, 0.1, 0, 0, 255), {})
    assert found.unique().numel() == 1


def test_what_an_operator_writes_into_is_read_off_its_schema() -> None:
    net = eager()
    trained(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = written_names(trace(net, images()).module)
    assert "wide.weight_fake_quant.scale" in names
    assert "wide.weight" not in names


class Doubled(Stubbed):
    """Multiplies by a number, which its own module for that does without observing anything."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.nn.quantized import FloatFunctional

        self.times = FloatFunctional()

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        return self.times.mul_scalar(super().sum(a, b), 2.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("version", [0, 1])
def test_quantisers_that_nothing_runs_through_have_seen_nothing_and_are_no_reason_to_refuse(version: int) -> None:
    net = Doubled().train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm", version=version)
    net = quantization.prepare_qat(net)
    with pytest.raises(InputError, match=r"'\w+.*' imitates quantisation.*seen no numbers yet.*run the network"):
        secateur.prune(net, images(), ratio=0.5)
    trained(net)
    assert net.times.activation_post_process.activation_post_process.min_val.isinf().any()
    pruned = secateur.prune(net, images(), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.proven
    assert pruned.backend == "module"
    trained(pruned.model)
