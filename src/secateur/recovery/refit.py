"""Stops that repair a layer: full least squares, one scale per input channel, the bias alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.plan import Plan
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.design import Design, design
from secateur.criteria.least_squares.fitted import Fitted
from secateur.criteria.least_squares.layout import transposed
from secateur.criteria.least_squares.normal import Moments, Prior, halves, ridge_solve, solve
from secateur.criteria.least_squares.sites import Norm, Site
from secateur.criteria.least_squares.sweep import Adjustment
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.graph.labels import Labels
from secateur.graph.ops import arguments
from secateur.recovery.hidden import Hidden

__all__ = ["Bias", "LeastSquares", "Scale", "Statistics", "affected", "next_layers", "widened"]

MOST = 2.0
"""Largest factor of :func:`widened`: a response of which nearly nothing could be foretold is noise."""


def affected(twin: Twin, sites: list[Site]) -> list[Site]:
    """The sites that compute something else since the cut: those behind it, and those cut themselves."""
    groups, changed = twin.groups, set()
    for node in twin.dense.nodes:
        labels = groups.flow.labels.get(node)
        cut = isinstance(labels, Labels) and bool(groups.masks(labels, twin.label_keep))
        if cut or any(n in changed for n in node.all_input_nodes):
            changed.add(node)
    return [s for s in sites if s.node in changed]


def next_layers(behind: Sequence[Site], plan: Plan) -> list[Site]:
    """The sites that the last cut took input channels from."""
    last = plan.parts[-1] if plan.parts else plan
    return [site for site in behind if 1 - int(transposed(site.node)) in last.keep.get(site.weight, {})]


class LeastSquares(Fitted):
    """Refits weights and bias to the dense network's response: min ‖W·u + b − t‖² + ridge.

    u is what the pruned network computes now, t the dense network's response at the kept channels, less what
    the residual path brings, so errors made before are made good where they can be. Where nothing but ReLUs (or others
    that are constant outside bounds) follow, what they hide needs no fit: in every further round, a target that with
    the residual path s is at or below the lower bound l is replaced by min(prediction, l − s), and one at or above the
    upper bound h by max(prediction, h − s); that needs no new normal matrix.

    Sources: He et al. 2017, arXiv:1707.06168, eq. 4 (refit of the consumer) and §3.2 (residual branches); Zhang et al.
    2015, arXiv:1505.06798, eq. 7 (ReLU).
    """

    def __init__(self, twin: Twin, site: Site, options: Options, hidden: Hidden | None = None) -> None:
        """Starts with empty normal equations; ``hidden`` has been seen before, and offers a prior."""
        super().__init__(twin, site, options)
        self.prior = self.map()
        self._priors = [Prior.fixed(self.prior), *([] if hidden is None or hidden.prior is None else [hidden.prior])]
        groups, outputs, columns = self.prior.shape
        self.folds = tuple(Moments.zeros(groups, columns - 1, outputs) for _ in range(2))
        self.passes = 1 + (options.rounds if site.seen else 0)
        self.ridge, self.short = 0.0, False

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch."""
        dense, pruned = values
        target, x = self.target(dense, pruned), self.input(pruned)
        at = self.at(index, target)
        rows = self.layout.rows(target, at)
        whole = design(self.layout, x, tuple(target.shape), at)
        brought = self._brought(pruned, at) if turn else None
        for fold, part in enumerate(halves(len(whole), index)):
            u, t = whole.of(part), rows[:, :, part]
            if not len(u):
                continue
            if turn == 0:
                self.folds[fold].add(u, t)
            else:
                self._add_visible(fold, u, t, 0.0 if brought is None else brought[:, :, part])

    def _brought(self, pruned: Values, at: Tensor) -> Tensor | None:
        skip = self.skip(pruned)
        return None if skip is None else self.layout.rows(skip, at)

    def _add_visible(self, fold: int, u: Design, t: Tensor, skip: Tensor | float) -> None:
        assert self.site.seen is not None
        low, high = (bound - skip for bound in self.site.seen)
        predicted = u.predicted(self.matrix)
        free = torch.where(t <= low, predicted.clamp(max=low), torch.where(t >= high, predicted.clamp(min=high), t))
        self.folds[fold].add_targets(u, free)

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        even, odd = self.folds
        if turn == 0:
            self._check_finite()
            self._wanted = even.square + odd.square, even.cross[:, -1] + odd.cross[:, -1]
            found = solve((even, odd), self._priors, ridge=self.options.ridge, intercept=self.intercept)
            self.matrix, self.ridge, self.short = found.matrix, found.ridge, found.short
            self.prior = found.prior
        else:
            self.matrix = ridge_solve(even + odd, self.prior, self.ridge, intercept=self.intercept)
        if turn < self.passes - 1:
            for fold in self.folds:
                fold.cross.zero_()
                fold.square.zero_()
        else:
            gram = even.gram + odd.gram
            widen = self.options.match_variance and self.intercept
            self.write(widened(self.matrix, gram, *self._wanted) if widen else self.matrix, gram)

    def sums(self, turn: int) -> list[Tensor]:
        """Gram matrices in the first round, targets in every one."""
        grams = [fold.gram for fold in self.folds] if turn == 0 else []
        return grams + [t for fold in self.folds for t in (fold.cross, fold.square)]

    def _check_finite(self) -> None:
        for what, tensors in (("input", [f.gram for f in self.folds]), ("response", [f.square for f in self.folds])):
            if not all(torch.isfinite(t).all() for t in tensors):
                raise InputError(
                    f"The {what} of {self.name!r} holds NaN or infinite values on the calibration data: it cannot be "
                    "fitted. Check the weights before it and the scale of the data."
                )


def widened(matrix: Tensor, gram: Tensor, square: Tensor, total: Tensor) -> Tensor:
    """A fit whose responses have the variance of the targets, about the same mean.

    A least-squares fit foretells the mean of what it cannot know, so its responses vary less than the targets, and
    layer by layer less. w ← f·w with f = σ(t) / σ(w·u), but 1 ≤ f ≤ :data:`MOST`.

    Args:
        matrix: Weights and intercept, (G, O/G, p + 1).
        gram: Σ [u; 1][u; 1]ᵀ, (G, p + 1, p + 1).
        square: Σ t², (G, O/G).
        total: Σ t, (G, O/G).
    """
    rows = gram[:, -1, -1:]
    mean = (matrix @ gram[:, :, -1:])[:, :, 0] / rows
    variance = ((matrix @ gram) * matrix).sum(2) / rows - mean**2
    wanted = square / rows - (total / rows) ** 2
    known = (variance > 1e-9 * wanted) & (wanted > 0)
    factor = torch.where(known, wanted / torch.where(known, variance, 1.0), 1.0).sqrt().clamp(1, MOST)
    found = matrix * factor[:, :, None]
    found[:, :, -1] += (1 - factor) * mean
    return found


class Scale(LeastSquares):
    """One factor per input channel, folded into the layer's weights: ŵ = (ZᵀZ)⁻¹Zᵀt.

    Z holds the part of the response that comes from each channel. With a ridge λ the factors are pulled to 1:
    (ZᵀZ + λ̄)(ŵ − 1) = Zᵀt − ZᵀZ·1, of minimum norm where that is singular. Source: Luo et al. 2017, ThiNet,
    arXiv:1707.06342, eq. 7. All of it follows from the normal equations of the full fit.
    """

    def __init__(self, twin: Twin, site: Site, options: Options) -> None:
        """One pass: leaving free what a ReLU hides is no part of the published fit."""
        super().__init__(twin, site, options)
        self.passes = 1

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        self._check_finite()
        moments = self.folds[0] + self.folds[1]
        weights, bias = self.prior[:, :, :-1], self.prior[:, :, -1:]
        groups, _, columns = weights.shape
        channels = columns // prod(self.layout.kernel)
        gram = moments.gram[:, :-1, :-1] * (weights.mT @ weights)
        gram = gram.reshape(groups, channels, columns // channels, channels, -1).sum((2, 4))
        cross = moments.cross[:, :-1] - moments.gram[:, :-1, -1:] @ bias.mT
        right = (cross * weights.mT).sum(2).reshape(groups, channels, -1).sum(2)
        ridge = 1e-4 if self.options.ridge is None else self.options.ridge
        pull = ridge * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        system = gram + torch.diag_embed(pull.expand(-1, channels))
        # the least change from 1 where channels bring nothing, or the same: they have no factor of their own
        rest = right[:, :, None] - gram.sum(2, keepdim=True)
        factors = 1 + torch.linalg.lstsq(system, rest, driver="gelsd").solution[:, :, 0]
        scaled = weights * factors.repeat_interleave(columns // channels, 1)[:, None, :]
        self.write(torch.cat([scaled, bias], 2), moments.gram)


class Bias(Fitted):
    """Moves the bias so that the mean response is the dense network's: b += E[t] − E[response].

    For the first layer behind a cut this is mean folding, b += W[:, removed] · E[x_removed]; further on it makes
    good the shift that earlier layers left. Source: Nagel et al. 2019, arXiv:1906.04721, §4.2.
    """

    def __init__(self, twin: Twin, site: Site, options: Options) -> None:
        """Starts with empty sums."""
        super().__init__(twin, site, options)
        self.gap, self.count = torch.zeros(()).double(), 0

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch."""
        dense, pruned = values
        target = self.target(dense, pruned)
        got = self.twin.pruned.compute(self.node, pruned)
        every = torch.arange(self.layout.positions(target), device=target.device)
        scale = self.scale.reshape(self.layout.groups, -1)
        found = self.layout.rows(got, every).double().cpu() * scale[:, :, None, None]
        gap = (self.layout.rows(target, every).double().cpu() - found).flatten(2)
        self.gap, self.count = self.gap + gap.sum(2), self.count + gap.shape[2]

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        if not torch.isfinite(self.gap).all():
            raise InputError(f"The response of {self.name!r} holds NaN or infinite values on the calibration data.")
        if not self.intercept:
            self.notes.append("has no bias to move")
            return
        site, twin = self.site, self.twin
        offset = site.norm.bias if site.norm is not None else site.bias
        assert offset is not None
        # gap = target − scale · response, so it holds the whole intercept but for the layer's own bias
        own = 0.0 if site.bias is None else twin.tensors[site.bias].double().cpu() * self.scale
        mean = (self.gap / self.count).flatten()
        if site.norm is None:
            twin.write(offset, mean + own)
        else:
            centre = twin.tensors[site.norm.mean].double().cpu() * self.scale
            twin.write(offset, mean + centre)


class Statistics(Adjustment):
    """Estimates a batch normalisation's running mean and variance again, on what it is given now.

    Source: Li et al. 2020, EagleEye, arXiv:2007.02491, §3.3 (adaptive batch normalisation).
    """

    def __init__(self, twin: Twin, norm: Norm) -> None:
        """Starts with empty sums."""
        super().__init__()
        self.twin = twin
        self.node = twin.copies[norm.node]
        self.norm, self.name = norm, norm.mean.rpartition(".")[0] or norm.mean
        self.total = self.square = torch.zeros(()).double()
        self.count = 0

    def until(self) -> tuple[int, ...]:
        """The pruned network has computed the input; the dense one is not needed."""
        return 0, self.twin.pruned.place[self.node]

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch."""
        x = self.twin.pruned.value(arguments(self.node)["input"], values[1])
        x = x.transpose(0, 1).flatten(1).double().cpu()
        self.total, self.square = self.total + x.sum(1), self.square + x.square().sum(1)
        self.count += x.shape[1]

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        mean = self.total / self.count
        var = (self.square / self.count - mean**2).clamp_min(0) * (self.count / max(self.count - 1, 1))
        if not (torch.isfinite(mean).all() and torch.isfinite(var).all()):
            raise InputError(f"The input of {self.name!r} holds NaN or infinite values on the calibration data.")
        self.twin.write(self.norm.mean, mean)
        self.twin.write(self.norm.var, var)
