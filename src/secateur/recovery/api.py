"""Recovery of accuracy without training: one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import Node

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.inputs import Data, calls
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.layout import layout
from secateur.criteria.least_squares.normal import bytes_of_fit
from secateur.criteria.least_squares.scale import check_scale
from secateur.criteria.least_squares.sites import Site, norms, sites
from secateur.criteria.least_squares.sweep import Adjustment, Later, Stops, sweep
from secateur.criteria.least_squares.twin import Twin
from secateur.cut.pruned import Pruned
from secateur.graph.calling import preserved_rng
from secateur.graph.copies import deep_copy
from secateur.recovery.attention import LogitFit, logit_fits
from secateur.recovery.candidates import closest
from secateur.recovery.datafree import expect_bias, merge
from secateur.recovery.hidden import Hidden, hidden_mask
from secateur.recovery.refit import Bias, LeastSquares, Scale, Statistics, affected, next_layers
from secateur.recovery.twin import check_unchanged, dense_of, last_cut, twin

__all__ = ["FIT_TO", "LAYERS", "METHODS", "check_method", "recover"]

METHODS = {
    "least_squares": "weights and bias of every layer behind the cut, refitted to the dense network's response",
    "scale": "one factor per input channel of every layer, folded into its weights (ThiNet)",
    "bias": "the bias alone; without calibration data from batch-norm offsets",
    "batch_norm": "running statistics estimated again",
    "merge": "removed channels become multiples of kept ones; needs no data (neuron merging)",
}
FIT_TO = ("dense", "before")
LAYERS = ("all", "next")
WITHOUT_DATA = ("bias", "merge")
_SUMMED = ("least_squares", "scale")
_BY_LAYER = (*_SUMMED, "bias")


@arguments.checked
def recover(
    pruned: Pruned,
    data: Data | None = None,
    *,
    dense: nn.Module | None = None,
    method: str = "least_squares",
    fit_to: str = "dense",
    layers: str = "all",
    ridge: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    match_variance: bool | Literal["auto"] = False,
    memory_bytes: int | None = None,
    over_processes: bool = False,
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
        fit_to: Whose responses are fitted: those of the network before its first cut (``dense``), or of the one just
            before the last cut (``before``), which ThiNet takes; after one cut they are the same network.
        layers: Which layers are fitted: ``all`` behind the cut, or those alone that the last cut took inputs from
            (``next``), as ThiNet and LASSO pruning do layer by layer; these fits are linear, as published, and leave
            nothing free that a ReLU hides.
        ridge: Strength of the ridge relative to the mean diagonal of the normal matrix; 0 for plain least squares; by
            default cross-validated layer by layer (1e-4 for ``scale``).
        batch_size: Samples that run at a time.
        seed: Of the positions that are looked at in large feature maps.
        match_variance: Whether each refitted layer's responses get the variance of the dense network's, which a fit
            loses. It helps some networks (MobileNetV2) and does nothing for others or harms them: ``"auto"`` repairs
            both ways, in twice the time, and keeps what is :func:`closest` on these samples. For ``least_squares``.
        memory_bytes: What the matrices of one layer's fit, and activations that wait between two layers, may take in
            memory beside the networks; activations beyond it go to temporary files. By default 1 GiB of activations,
            and fits of up to 10,000 inputs; larger ones are made where this allows them.
        over_processes: Whether all processes of ``torch.distributed`` call this at the same time, each with samples of
            its own: sums are taken over all of them, and the results are the same. For ``least_squares`` and ``scale``.

    Returns:
        A new result with the same plan; its notes say which layers were short of data.

    Raises:
        InputError: Data that does not fit, NaN or infinite activations (names the layer), another network, a limit to
            the memory below what the largest layer's fit takes (says how much that is).
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
    check_method(method, match_variance=match_variance, fit_to=fit_to, layers=layers)
    _check(data, method, ridge, batch_size, memory_bytes)
    _check_processes(method, over_processes, match_variance)
    if layers == "next" and data is None:
        raise InputError(f"layers='next' needs calibration data; without any, {method!r} repairs all layers.")
    if fit_to == "before" and pruned.plan.parts:
        options: dict[str, Any] = {"method": method, "layers": layers, "ridge": ridge, "seed": seed,
                                   "batch_size": batch_size, "match_variance": match_variance,
                                   "memory_bytes": memory_bytes, "over_processes": over_processes}  # fmt: skip
        return last_cut(pruned, lambda alone, before: recover(alone, data, dense=before, **options))
    dense = dense_of(pruned, dense, "recover")
    if match_variance == "auto":
        assert data is not None  # or the method would have been another
        data = list(data) if isinstance(data, Iterator) else data
        how: dict[str, Any] = {"method": method, "layers": layers, "ridge": ridge, "seed": seed,
                               "batch_size": batch_size, "memory_bytes": memory_bytes,
                               "over_processes": over_processes}  # fmt: skip
        both = [recover(pruned, data, dense=dense, match_variance=wide, **how) for wide in (False, True)]
        return closest(both, data, dense=dense, batch_size=batch_size)
    new = deep_copy(pruned.model)
    pair = twin(replace(pruned, model=new), dense)
    check_unchanged(pruned, dense)
    known = Options(
        ridge=ridge, seed=seed, match_variance=match_variance, rounds=Options().rounds if layers == "all" else 0
    )
    if data is None or method == "merge":
        notes = _FREE[method](pair)
    else:
        limits = _Limits(batch_size, memory_bytes, over_processes)
        behind = affected(pair, sites(pair.groups.flow))
        behind = next_layers(behind, pruned.plan) if layers == "next" else behind
        work = _Work(behind, method, known, attention=layers == "all" and method == "least_squares")
        notes = _with_data(pair, data, work, limits)
    return replace(pruned, model=pair.fill(new), notes=(*pruned.notes, *notes))


def check_method(
    method: str, *, match_variance: bool | Literal["auto"] = False, fit_to: str = "dense", layers: str = "all"
) -> None:
    """Checks what can be checked before there is a network.

    Raises:
        UnknownNameError: No such method, network to fit to, or choice of layers.
        InputError: A setting that belongs to another method.
    """
    if method not in METHODS:
        raise UnknownNameError("recovery method", method, METHODS)
    if fit_to not in FIT_TO:
        raise UnknownNameError("network to fit to", fit_to, FIT_TO, argument="fit_to")
    if layers not in LAYERS:
        raise UnknownNameError("choice of layers", layers, LAYERS, argument="layers")
    if layers == "next" and method not in _BY_LAYER:
        raise InputError(f"layers='next' is for the methods {', '.join(_BY_LAYER)}; this one is {method!r}.")
    if match_variance and method != "least_squares":
        raise InputError(f"match_variance is for the method 'least_squares'; this one is {method!r}.")


def _check(
    calibration: Data | None, method: str, ridge: float | None, batch_size: int, memory_bytes: int | None
) -> None:
    if calibration is None and method not in WITHOUT_DATA:
        raise InputError(
            f"The method {method!r} needs calibration data; without any, take {' or '.join(map(repr, WITHOUT_DATA))}."
        )
    if ridge is not None and not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is 0 or more (or None to choose it); got {ridge!r}.")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; got {batch_size!r}.")
    if memory_bytes is not None and memory_bytes < 0:
        raise InputError(f"memory_bytes is a number of bytes, 0 or more (or None); got {memory_bytes!r}.")


def _check_processes(method: str, over_processes: bool, match_variance: bool | Literal["auto"]) -> None:
    if over_processes and match_variance == "auto":
        raise InputError(
            "match_variance='auto' decides by the samples of one process, and over_processes=True has others in each: "
            "they could decide differently. Give match_variance=True or False."
        )
    if over_processes and method not in _SUMMED:
        raise InputError(
            f"over_processes=True adds up the sums of {' and '.join(map(repr, _SUMMED))}; got method={method!r}. Give "
            "every process all samples instead."
        )
    if over_processes and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise InputError(
            "over_processes=True adds up over the processes of torch.distributed, and there are none: call "
            "torch.distributed.init_process_group first, or leave it out."
        )


@dataclass(frozen=True)
class _Limits:
    """How many samples run at a time, what may be in memory, and whether processes share the samples."""

    batch_size: int
    memory_bytes: int | None
    over_processes: bool


@dataclass(frozen=True)
class _Work:
    """What is fitted: these layers by this method, and whether attention's logits are too."""

    behind: list[Site]
    method: str
    options: Options
    attention: bool


def _with_data(pair: Twin, calibration: Data, work: _Work, limits: _Limits) -> list[str]:
    flow = pair.groups.flow
    room = _room(pair, work.behind, work.method, limits.memory_bytes)
    short: list[str] = []
    said: list[str] = []

    def plan(samples: int) -> Stops:
        if work.method == "batch_norm":
            return [Statistics(pair, norm) for norm in norms(flow)]
        return _planned(pair, replace(work, options=replace(work.options, samples=samples)), limits, said)

    def after(stop: Adjustment) -> None:
        if isinstance(stop, LeastSquares) and stop.short:
            short.append(stop.name)

    devices = [t for t in pair.tensors.values() if t.is_cuda][:1]
    with preserved_rng(*devices):
        data = (batch.inputs for batch in calls(calibration, flow.traced, limits.batch_size))
        first = next(data)
        notes = check_scale(pair.dense, norms(flow), first)
        notes += sweep((pair.dense, pair.pruned), chain([first], data), plan, room, after, limits.over_processes)
    return notes + said + _short(short)


def _planned(pair: Twin, work: _Work, limits: _Limits, said: list[str]) -> Stops:
    """What is fitted, in the order of execution; notes on what is not go to ``said``."""
    logits: list[LogitFit] = []
    behind, method, options = work.behind, work.method, work.options
    if work.attention and not limits.over_processes:  # the halves of one process would decide for all
        logits, behind, notes = logit_fits(pair, behind, options)
        said += notes
    placed: list[tuple[Node, Adjustment | Later]] = [(stop.attention.first, stop) for stop in logits]
    for site in behind:
        placed += [(site.node, stop) for stop in _stops(pair, site, method, options, limits.memory_bytes)]
    return [stop for _, stop in sorted(placed, key=lambda p: pair.dense.place[p[0]])]


def _room(pair: Twin, behind: Sequence[Site], method: str, memory_bytes: int | None) -> int | None:
    """What is left of a limit beside the largest fit, for what waits between two layers.

    Raises:
        InputError: Nothing is.
    """
    if memory_bytes is None or method not in _SUMMED:
        return memory_bytes
    largest, most = 0, ""
    for site in behind:
        form, weight = layout(pair.copies[site.node], pair.tensors[site.weight]), pair.tensors[site.weight]
        columns, outputs = form.sizes(weight)
        needed = bytes_of_fit(form.groups, columns, outputs)
        if columns > Options().largest and needed > memory_bytes:
            continue
        if needed > largest:
            largest, most = needed, f"{site.name!r} ({columns:,} inputs and {outputs:,} outputs)"
    if memory_bytes < largest:
        raise InputError(
            f"memory_bytes={memory_bytes:,} is too little: the fit of {most} takes about {largest:,} bytes. Give that "
            "or more, or no limit, or method='bias'."
        )
    return memory_bytes - largest


def _short(names: Sequence[str]) -> list[str]:
    """One note on all layers that had few positions for their size."""
    if not names:
        return []
    return [
        f"few calibration samples for the size of {len(names)} layer{'s' * (len(names) > 1)} ({', '.join(names[:3])}"
        f"{' …' * (len(names) > 3)}): a strong ridge keeps them near the weights that they had"
    ]


def _stops(pair: Twin, site: Site, method: str, options: Options, memory_bytes: int | None) -> list[Later]:
    """The layer's stop, and before it one that looks at what enters it, where the layer loses inputs."""
    mask = hidden_mask(pair, site) if method == "least_squares" else None
    if mask is None:
        return [Later(site.name, partial(_stop, pair, site, method, options, memory_bytes))]
    made: list[Hidden] = []

    def hidden() -> Hidden:
        made.append(Hidden(pair, site, options, mask))
        return made[0]

    def fit() -> Adjustment:
        return _stop(pair, site, method, options, memory_bytes, made.pop())

    return [Later(site.name, hidden), Later(site.name, fit)]


def _stop(
    pair: Twin, site: Site, method: str, options: Options, memory_bytes: int | None, hidden: Hidden | None = None
) -> Adjustment:
    if method == "bias":
        return Bias(pair, site, options)
    form, weight = layout(pair.copies[site.node], pair.tensors[site.weight]), pair.tensors[site.weight]
    columns, outputs = form.sizes(weight)
    if columns > options.largest and (memory_bytes or 0) < bytes_of_fit(form.groups, columns, outputs):
        stop = Bias(pair, site, options)
        stop.notes.append(f"{columns:,} inputs are too many for a fit (at most {options.largest:,}, "
                          "or what memory_bytes allows); bias alone")  # fmt: skip
        return stop
    return Scale(pair, site, options) if method == "scale" else LeastSquares(pair, site, options, hidden)


_FREE: dict[str, Callable[[Twin], list[str]]] = {"bias": expect_bias, "merge": merge}
