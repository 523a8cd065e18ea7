"""A consumer's weights as the rest of its input foretells them: the dense input from the channels that stay."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.criteria.least_squares.affine import Affine, Options, drawn, outputs_left
from secateur.criteria.least_squares.design import Design
from secateur.criteria.least_squares.layout import Layout, layout
from secateur.criteria.least_squares.normal import Moments, Prior, halves, ridge_solve, strength
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.sweep import Adjustment
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.graph.labels import Labels
from secateur.graph.ops import arguments

__all__ = ["Hidden", "hidden_mask"]

LARGEST = 2_500
"""Input channels of a layer beyond which the map is not computed: its normal matrix would be larger than the fit's."""


def hidden_mask(twin: Twin, site: Site) -> NDArray[np.bool_] | None:
    """Which of the dense input's channels stay, where some go and the layer mixes all of them; else ``None``."""
    labels = twin.groups.flow.labels.get(arguments(site.node)["input"])
    weight = twin.dense.value(arguments(site.node)["weight"], {})
    how = layout(site.node, weight)
    if not isinstance(labels, Labels) or how.groups > 1:
        return None
    mask = twin.groups.masks(labels, twin.label_keep).get(labels.ndim - 1 if how.linear else 1)
    return mask if mask is not None and 0 < mask.sum() < len(mask) <= LARGEST else None


class Hidden(Adjustment):
    """Foretells a layer's dense input from the channels that stay, and puts the map into the layer's dense weights.

    min over M, m of Σ ‖h − M h_kept − m‖² + ridge · ‖M‖² on the dense network's own activations h (channels at single
    positions), and W ← W·M. As a prior of the layer's own fit it says what a layer with too few samples falls back to.

    Source: GRAIL (CPAL 2026, arXiv:2602.23795): Gram matrix of the hidden activations, ridge regression of the hidden
    state from its kept part, folded into the consumer.
    """

    def __init__(self, twin: Twin, site: Site, options: Options, mask: NDArray[np.bool_]) -> None:
        """Starts with empty normal equations of all channels."""
        super().__init__()
        self.name, self._twin, self._site, self._options = site.name, twin, site, options
        self._node = arguments(site.node)["input"]
        self._keep = torch.from_numpy(np.flatnonzero(mask))
        self._layout = layout(site.node, twin.dense.value(arguments(site.node)["weight"], {}))
        self._folds = tuple(Moments.zeros(1, len(mask), 0) for _ in range(2))
        self.prior: Prior | None = None

    def until(self) -> tuple[int, ...]:
        """The dense network has computed the input."""
        return self._twin.dense.place[self._site.node], 0

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch: channels at positions drawn once and for all."""
        x = self._twin.dense.value(self._node, values[0])
        x = self._layout.samples(x)
        flat = x.flatten(2).mT if x.ndim > 2 else x[:, None]
        places = flat.shape[1]
        at = drawn(places, index, self._options).to(x.device)
        whole = Design(Layout(), flat.contiguous(), None if len(at) == places else at[:, None])
        for fold, part in enumerate(halves(len(whole), index)):
            if len(some := whole.of(part)):
                self._folds[fold].add_rows(some)

    def sums(self, turn: int) -> list[Tensor]:
        """Gram matrices of both halves."""
        return [fold.gram for fold in self._folds]

    def finish(self, turn: int) -> None:
        """Solves for both halves and for all images."""
        even, odd = (self._kept(fold.gram) for fold in self._folds)
        if not (even.rows and odd.rows and torch.isfinite(even.gram + odd.gram).all()):
            return
        nothing = torch.zeros(1, even.cross.shape[2], len(self._keep) + 1, dtype=torch.float64)
        ridge = strength((even, odd), nothing)
        self.prior = Prior(*(self._folded(ridge_solve(m, nothing, ridge)) for m in (even, odd, even + odd)))
        del self._folds

    def _kept(self, gram: Tensor) -> Moments:
        """The regression of all channels on those that stay, of the moments of all channels."""
        size = gram.shape[1] - 1
        kept = torch.cat([self._keep, torch.tensor([size])])
        rows = gram[:, kept]
        return Moments(rows[:, :, kept], rows[:, :, :size], gram.diagonal(dim1=1, dim2=2)[:, :size])

    def _folded(self, hidden: Tensor) -> Tensor:
        """The layer's affine map (1, O, p + 1), of the map (1, C, K + 1) of its input."""
        own = Affine(self._twin, self._site, self._options)
        now, weights = own.map(), self._dense_matrix(own)
        taps = prod(own.layout.kernel)
        tensor = weights.reshape(len(weights), -1, taps) * own.scale[:, None, None]
        folded = torch.einsum("oct,ck->okt", tensor, hidden[0, :, :-1]).flatten(1)
        offset = torch.einsum("oct,c->o", tensor, hidden[0, :, -1]) * own.intercept
        return torch.cat([folded[None], now[:, :, -1:] + offset[None, :, None]], 2)

    def _dense_matrix(self, own: Affine) -> Tensor:
        """The dense weights of the outputs that stay, (O, p of the dense network)."""
        node = arguments(self._site.node)["weight"]
        weight = self._twin.dense.value(node, {}).detach().double().cpu()
        return own.layout.matrix(weight)[0][outputs_left(self._twin, self._site)]
