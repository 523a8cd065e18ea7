"""Recovery of accuracy without training: one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.inputs import Data, calls
from secateur.core.weights_print import weights_print
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.layout import layout
from secateur.criteria.least_squares.scale import check_scale
from secateur.criteria.least_squares.sites import Site, norms, sites
from secateur.criteria.least_squares.sweep import Adjustment, sweep
from secateur.criteria.least_squares.twin import Twin
from secateur.cut.pruned import WEIGHTS_PRINT, Pruned
from secateur.graph.calling import preserved_rng
from secateur.recovery.attention import LogitFit, logit_fits
from secateur.recovery.datafree import expect_bias, merge
from secateur.recovery.refit import Bias, LeastSquares, Scale, Statistics, affected
from secateur.recovery.twin import twin

__all__ = ["METHODS", "recover"]

METHODS = {
    "least_squares": "weights and bias of every layer behind the cut, refitted to the dense network's response",
    "scale": "one factor per input channel of every layer, folded into its weights (ThiNet)",
    "bias": "the bias alone; without calibration data from batch-norm offsets",
    "batch_norm": "running statistics estimated again",
    "merge": "removed channels become multiples of kept ones; needs no data (neuron merging)",
}
WITHOUT_DATA = ("bias", "merge")


@arguments.checked
def recover(
    pruned: Pruned,
    data: Data | None = None,
    *,
    dense: nn.Module | None = None,
    method: str = "least_squares",
    ridge: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Pruned:
    """Gives a pruned network back what can be had without labels, gradients or training.

    Layer by layer through the pruned network, in the order of execution: each layer is fitted on what the
    pruned network computes now to what the dense network computed there, so later layers make good the errors
    of earlier ones. Memory does not grow with the number of samples.

    Args:
        pruned: From :func:`secateur.prune` or :func:`secateur.apply`. It is not touched.
        data: Inputs, normalised as in training, in any form of :mod:`secateur.core.inputs` (a tensor, a tuple, a
            dict, a loader); labels are not looked at. 128 samples help, 512 are good. ``None`` for the methods
            without data (``merge`` never looks at any).
        dense: The network before the (first) cut, in any mode; not touched. ``pruned`` remembers it unless it was
            loaded or copied.
        method: One of :data:`METHODS`.
        ridge: Strength of the ridge relative to the mean diagonal of the normal matrix; by default
            cross-validated layer by layer.
        batch_size: Samples that run at a time.
        seed: Of the positions that are looked at in large feature maps.

    Returns:
        A new result with the same plan; its notes say which layers were short of data.

    Raises:
        InputError: Data that does not fit, NaN or infinite activations (names the layer), another network.
        UnknownNameError: No such method.

    >>> import secateur, torch
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.randn(256, 4)
    >>> cut = secateur.prune(net, x[:2], ratio=0.5)
    >>> repaired = recover(cut, x)
    >>> bool(((repaired.model(x) - net(x)) ** 2).mean() < ((cut.model(x) - net(x)) ** 2).mean() / 4)
    True
    """
    _check(data, method, ridge, batch_size)
    dense = _dense_of(pruned, dense)
    pair = twin(pruned, dense)
    _check_unchanged(pruned, dense)
    if data is None or method == "merge":
        notes = _FREE[method](pair)
    else:
        notes = _with_data(pair, data, method, batch_size, Options(ridge=ridge, seed=seed))
    return replace(pruned, model=pair.into(pruned.model), notes=(*pruned.notes, *notes))


def _dense_of(pruned: Pruned, given: nn.Module | None) -> nn.Module:
    """The network before the first cut.

    Raises:
        InputError: It is not known.
    """
    dense = pruned.dense if given is None else given
    if dense is None:
        raise InputError(
            "The network before the cut is not known here: what is loaded or copied does not hold it. Give it: "
            "recover(pruned, data, dense=net)."
        )
    return dense


def _check_unchanged(pruned: Pruned, dense: nn.Module) -> None:
    """Refuses a network of the same form with other weights.

    Raises:
        InputError: It is another one, or was trained since.
    """
    plan = pruned.plan.parts[0] if pruned.plan.parts else pruned.plan
    known = plan.provenance.get(WEIGHTS_PRINT)
    if known is not None and weights_print(dense) not in (None, known):
        raise InputError(
            "dense is not the network that was cut: its weights are others, or they have changed since. Give the "
            "network that was handed to prune, with the weights that it had then."
        )


def _check(calibration: Data | None, method: str, ridge: float | None, batch_size: int) -> None:
    if method not in METHODS:
        raise UnknownNameError("recovery method", method, METHODS)
    if calibration is None and method not in WITHOUT_DATA:
        raise InputError(
            f"The method {method!r} needs calibration data; without any, take {' or '.join(map(repr, WITHOUT_DATA))}."
        )
    if ridge is not None and not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is 0 or more (or None to choose it); got {ridge!r}.")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; got {batch_size!r}.")


def _with_data(pair: Twin, calibration: Data, method: str, batch_size: int, options: Options) -> list[str]:
    flow = pair.groups.flow
    stops: list[Adjustment] = []
    said: list[str] = []

    def plan(samples: int) -> Sequence[Adjustment]:
        known = replace(options, samples=samples)
        if method == "batch_norm":
            return [Statistics(pair, norm) for norm in norms(flow)]
        stops.extend(_stops(pair, method, known, said))
        return stops

    devices = [t for t in pair.tensors.values() if t.is_cuda][:1]
    with preserved_rng(*devices):
        data = (batch.inputs for batch in calls(calibration, flow.traced, batch_size))
        first = next(data)
        notes = check_scale(pair.dense, norms(flow), first)
        notes += sweep((pair.dense, pair.pruned), chain([first], data), plan)
    return notes + said + _short(stops)


def _stops(pair: Twin, method: str, options: Options, said: list[str]) -> list[Adjustment]:
    """What is fitted, in the order of execution; notes on what is not go to ``said``."""
    found = affected(pair, sites(pair.groups.flow))
    logits: list[LogitFit] = []
    if method == "least_squares":
        logits, found, notes = logit_fits(pair, found, options)
        said += notes
    placed = [(site.node, _stop(pair, site, method, options)) for site in found]
    placed += [(stop.attention.first, stop) for stop in logits]
    return [stop for _, stop in sorted(placed, key=lambda p: pair.dense.place[p[0]])]


def _short(stops: Sequence[Adjustment]) -> list[str]:
    """One note on all layers that had few positions for their size."""
    names = [stop.name for stop in stops if isinstance(stop, LeastSquares) and stop.short]
    if not names:
        return []
    return [
        f"few calibration samples for the size of {len(names)} layer{'s' * (len(names) > 1)} ({', '.join(names[:3])}"
        f"{' …' * (len(names) > 3)}): a strong ridge keeps them near the weights that they had"
    ]


def _stop(pair: Twin, site: Site, method: str, options: Options) -> Adjustment:
    if method == "bias":
        return Bias(pair, site, options)
    columns = layout(pair.copies[site.node], pair.tensors[site.weight]).sizes(pair.tensors[site.weight])[0]
    if columns > options.largest:
        stop = Bias(pair, site, options)
        stop.notes.append(f"{columns:,} inputs are too many for a fit (at most {options.largest:,}); bias alone")
        return stop
    return (Scale if method == "scale" else LeastSquares)(pair, site, options)


_FREE: dict[str, Callable[[Twin], list[str]]] = {"bias": expect_bias, "merge": merge}
