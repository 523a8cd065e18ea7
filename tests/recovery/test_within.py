"""The largest cut that a metric allows: bisected, judged on what may decide, and said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from command_line import call
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.metric import LOSS, TOP1
from secateur.core.types import Target
from secateur.recovery.within import Within, within

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).eval()


def task(network: nn.Module, **splits: Any) -> secateur.Task:
    """Labels that the network gives, so that it is right always."""
    labelled = (X, network(X).argmax(1).detach())

    def right(output: Tensor, target: Tensor) -> Tensor:
        return 100 * (output.argmax(1) == target).float().mean()

    return secateur.Task(train=labelled, **{"validation": labelled, **splits}, loss=nn.functional.cross_entropy,
                         metrics={"right": secateur.Metric(right, name="right", better="higher")})  # fmt: skip


def search(value: Any, target: Target, *, least: float = 0.0, tries: int = 7, metric: Any = TOP1) -> Within:
    """A bisection over numbers in place of networks."""

    def cut(share: float) -> Any:
        if share < least:
            raise BudgetError("out of reach")
        return SimpleNamespace(model=share)

    def judged(network: Any) -> float:
        return float(value(network))

    return within(1.0, cut, lambda found: found, judged, metric, target, tries=tries, amount="macs")  # type: ignore[arg-type]


@pytest.mark.parametrize("allowed", [-1, -12.5, -40])
def test_the_smallest_share_that_is_allowed_is_found(allowed: float) -> None:
    found = search(lambda share: 90 * share, Target(metric=allowed))
    wanted = (90 + allowed) / 90
    assert wanted <= found.share <= wanted + 2**-6
    assert found.value == 90 * found.share >= 90 + allowed
    assert all(value is None or share >= found.share or value < 90 + allowed for share, value in found.tries)
    assert len(found.tries) <= 7


def test_of_losses_more_is_worse() -> None:
    found = search(lambda share: 2 - share, Target(metric=0.25), metric=LOSS)
    assert 0.75 <= found.share <= 0.75 + 2**-6


def test_shares_that_no_cut_reaches_are_passed_over() -> None:
    found = search(lambda share: 90, Target(metric=-1), least=0.3)
    assert 0.3 <= found.share <= 0.3 + 2**-6
    assert (0.25, None) in found.tries


def test_a_cut_that_gives_no_number_is_not_allowed() -> None:
    found = search(lambda share: float("nan") if share < 0.6 else 90, Target(metric=-1))
    assert 0.6 <= found.share <= 0.6 + 2**-6


@pytest.mark.parametrize(("metric", "target", "said"), [
    (TOP1, 0.5, "is better the higher it is, so what may be lost of it is -0.5"),
    (LOSS, -0.5, "is better the lower it is, so what may be lost of it is [+]0.5"),
])  # fmt: skip
def test_the_wrong_direction_is_refused(metric: Any, target: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        search(lambda share: 90, Target(metric=target), metric=metric)


def test_nothing_that_was_tried_is_allowed() -> None:
    with pytest.raises(
        BudgetError,
        match=r"so little: 90\.00 ?% before, 89\.50 ?% allowed, 10\.00 ?% with 99% of the multiply-accumulates kept",
    ):
        search(lambda share: 90 if share == 1 else 10, Target(metric=-0.5))


def test_a_network_whose_metric_is_no_number() -> None:
    with pytest.raises(InputError, match="before the cut is nan, so nothing can be said"):
        search(lambda share: float("nan"), Target(metric=-0.5))


def test_a_task_is_judged_on_its_validation_samples_alone() -> None:
    network = net()

    class Forbidden:
        def __iter__(self) -> Any:
            raise AssertionError("test samples do not decide")

    small = secateur.prune_to(network, X[:2], target=Target(metric=-10), data=task(network, test=Forbidden()))
    right = 100 * float((small.model(X).argmax(1) == network(X).argmax(1)).float().mean())
    assert right >= 90
    assert small.after.macs < small.before.macs
    assert small.verification is not None
    assert small.verification.proven
    (note,) = [note for note in small.notes if "was allowed" in note]
    assert f"{right:.4f}" in note
    assert "on 96 samples, where -10 was allowed" in note


def test_repair_is_part_of_what_is_judged() -> None:
    network, wanted = net(), net()(X).detach()

    def error(found: nn.Module) -> float:
        return float((found(X) - wanted).detach().square().mean() / wanted.square().mean())

    options: dict[str, Any] = {"target": Target(metric=0.05), "data": X, "score": error, "better": "lower"}
    repaired, bare = (secateur.prune_to(network, X[:2], **options, repair=repair) for repair in (True, False))
    assert error(repaired.model) <= 0.05
    assert error(bare.model) <= 0.05
    assert repaired.after.macs < bare.after.macs
    mine = secateur.prune_to(network, X[:2], **options, repair=lambda cut: secateur.recover(cut, X, seed=0))
    assert mine.after == repaired.after


def test_an_earlier_cut_is_gone_on_with() -> None:
    network = net()
    once = secateur.prune(network, X[:2], ratio=0.25)
    once = secateur.recover(once, X)
    small = secateur.prune_to(once, target=Target(metric=-20), data=task(network))
    assert small.after.macs < once.after.macs
    assert len(small.plan.parts) == 2
    assert 100 * float((small.model(X).argmax(1) == network(X).argmax(1)).float().mean()) >= 70


def test_the_same_seed_gives_the_same_network_and_the_given_one_stays() -> None:
    network = net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, two = (secateur.prune_to(network, X[:2], target=Target(metric=-20), data=task(network)) for _ in range(2))
    assert one.plan.keep == two.plan.keep
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("wrong", "error", "said"), [
    ({"target": Target(macs=0.5)}, InputError, r"aims at a metric.*For Target\(macs=…\) call prune"),
    ({"ratio": 0.5}, InputError, "finds out how much goes; ratio=… says it"),
    ({"amount": "mac"}, UnknownNameError, "'macs'"),
    ({"tries": 0}, InputError, "tries is at least 1; got 0"),
    ({"samples": 0}, InputError, "samples is at least 1; got 0"),
    ({"data": iter([X])}, InputError, "gone through once"),
    ({"data": X}, InputError, "judges a metric: give a task"),
    ({"criterion": "l3"}, UnknownNameError, "'l2'"),
])  # fmt: skip
def test_what_cannot_be_asked(wrong: dict[str, Any], error: type[Exception], said: str) -> None:
    network = net()
    with pytest.raises(error, match=said):
        secateur.prune_to(network, X[:2], **{"target": Target(metric=-5), "data": task(network), **wrong})


@pytest.mark.parametrize(("repair", "said"), [
    (lambda cut: None, r"gives a cut, a Pruned as `recover` does; got"),
    (lambda cut: 1 / 0, "repair=… failed on a cut: ZeroDivisionError: division by zero"),
    (3, "repair is True or False or a function; got 3"),
])  # fmt: skip
def test_repairs_that_give_no_cut(repair: Any, said: str) -> None:
    network = net()
    with pytest.raises(InputError, match=said):
        secateur.prune_to(network, X[:2], target=Target(metric=-5), data=task(network), repair=repair)


def test_prune_says_who_knows_tasks() -> None:
    with pytest.raises(InputError, match=r"judged on a task: call secateur\.prune_to"):
        secateur.prune(net(), X[:2], target=Target(metric=-0.5))
    with pytest.raises(InputError, match=r"-0\.5 for half a point"):
        Target(metric=0)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    options = ("--metric", "-50", "--criterion", "l2", "--images", "64", "--out", folder)
    code, said, errors = call(capsys, "recover", "vgg_digits", "--data", "digits", *options)
    assert code == 0, errors
    assert "-50 was allowed" in " ".join(said.split())
    assert (folder / "plan.json").exists()
    more = ("--metric", "-5", "--macs", "50%", "--out", tmp_path / "x")
    code, _, errors = call(capsys, "recover", "vgg_digits", "--data", "digits", *more)
    assert code == 2
    assert "Give --metric or --macs, not both" in " ".join(errors.split())
