"""What pruning won, as single numbers: NetScore, compression ratio, MAC reduction."""

from __future__ import annotations

import math

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError

__all__ = ["compression_ratio", "mac_reduction", "netscore", "nonzero_params"]


@arguments.checked
def netscore(
    top1_percent: float,
    params: float,
    macs: float,
    *,
    alpha: float = 2.0,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> float:
    """Scores accuracy against size and work: Ω = 20·log10(a^α / (p^β · m^γ)), higher is better.

    Source: Wong, "NetScore", https://arxiv.org/abs/1806.05512.

    Of a network with zeros among its weights, ``params`` are those that are not zero (:func:`nonzero_params`): what
    has to be stored. ``macs`` go down with structural cuts only, as dense kernels multiply by zeros too.

    Args:
        top1_percent: Top-1 accuracy a in percent, 0 to 100.
        params: Number of parameters (p is this in millions).
        macs: Multiply-accumulates of one sample (m is this in billions).
        alpha: Weight of the accuracy.
        beta: Weight of the parameters.
        gamma: Weight of the MACs.

    Returns:
        The score in decibel-like units; minus infinity at an accuracy of 0.

    Raises:
        InputError: For an accuracy outside 0 to 100, or a size that is not positive.

    By hand, for 80 %, 1 M parameters and 0.01 G MACs: 20·log10(6400 / (1 · 0.1)) = 20·log10(64000):

    >>> round(netscore(80, 1_000_000, 10_000_000), 4)
    96.1236
    """
    if not 0 <= top1_percent <= 100:
        raise InputError(f"netscore() wants top1_percent between 0 and 100; got {top1_percent!r}.")
    p, m = _positive("params", params) / 1e6, _positive("macs", macs) / 1e9
    if top1_percent == 0:
        return -math.inf
    # Logs are summed, not the powers: large exponents would overflow first.
    return 20 * (alpha * math.log10(top1_percent) - beta * math.log10(p) - gamma * math.log10(m))


@arguments.checked
def nonzero_params(model: nn.Module) -> int:
    """Counts the parameters that are not exactly zero, each shared one once.

    >>> net = nn.Linear(3, 2)
    >>> _ = net.weight.data[0].zero_()
    >>> nonzero_params(net)
    5
    """
    return sum(int(parameter.detach().count_nonzero()) for parameter in model.parameters())


@arguments.checked
def compression_ratio(dense_params: float, pruned_params: float) -> float:
    """Returns dense / pruned parameters, for instance 4.0 for a network a quarter as large.

    Raises:
        InputError: When a count is not positive.

    >>> compression_ratio(1000, 250)
    4.0
    """
    return _positive("dense_params", dense_params) / _positive("pruned_params", pruned_params)


@arguments.checked
def mac_reduction(dense_macs: float, pruned_macs: float) -> float:
    """Returns dense / pruned multiply-accumulates; a *speed-up* is something else: a measured time ratio.

    Raises:
        InputError: When a count is not positive.

    >>> mac_reduction(90, 60)
    1.5
    """
    return _positive("dense_macs", dense_macs) / _positive("pruned_macs", pruned_macs)


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{name} must be a positive, finite number; got {value!r}.")
    return float(value)
