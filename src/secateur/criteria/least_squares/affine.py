"""A layer with the batch normalisation behind it, as one affine map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.criteria.least_squares.layout import layout, transposed
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.graph.ops import arguments

__all__ = ["Affine", "Options", "drawn", "outputs_left"]


@dataclass(frozen=True)
class Options:
    """How layers are fitted.

    Attributes:
        ridge: Strength relative to the mean diagonal of the normal matrix; ``None`` to cross-validate it.
        rounds: Further rounds in which what an activation hides is left free (see :class:`LeastSquares`).
        rows: Positions that are looked at per layer, over all images; ``None`` for all of them.
        samples: Number of calibration images.
        largest: Layers with more columns than this get their bias fitted alone.
        seed: Of the choice of positions.
        match_variance: Whether responses get the variance of what they are fitted to.
    """

    ridge: float | None = None
    rounds: int = 2
    rows: int | None = 65_536
    samples: int = 1
    largest: int = 10_000
    seed: int = 0
    match_variance: bool = False


def drawn(count: int, index: int, options: Options) -> Tensor:
    """Which of ``count`` positions of a sample are looked at in the batch ``index``, rising."""
    rows = count if options.rows is None else -(-options.rows // options.samples)
    if rows >= count:
        return torch.arange(count)
    seed = torch.Generator().manual_seed(options.seed * 1_000_003 + index)
    return torch.randperm(count, generator=seed)[:rows].sort().values


def outputs_left(twin: Twin, site: Site) -> Tensor:
    """Which of a layer's dense outputs stay, shape (O,), bool."""
    labels, dim = twin.groups.flow.tensors[site.weight], int(transposed(site.node))
    mask = twin.groups.masks(labels, twin.label_keep).get(dim)
    return torch.ones(labels.shape[dim], dtype=torch.bool) if mask is None else torch.from_numpy(mask)


class Affine:
    """A layer with the batch normalisation behind it, as one affine map W·u + b of its input's columns."""

    def __init__(self, twin: Twin, site: Site, options: Options) -> None:
        """Reads the layer's present weights."""
        self.twin = twin
        self.site, self.options = site, options
        self.node = twin.copies[site.node]
        self.layout = layout(self.node, twin.tensors[site.weight])
        self._positions: dict[int, Tensor] = {}

    @property
    def scale(self) -> Tensor:
        """γ/σ of the batch normalisation, or ones: shape (O,), float64."""
        weight, norm = self.twin.tensors[self.site.weight], self.site.norm
        outputs = self.layout.groups * self.layout.matrix(weight).shape[1]
        if norm is None:
            return torch.ones(outputs, dtype=torch.float64)
        tensors = self.twin.tensors
        sigma = (tensors[norm.var].double() + norm.eps).sqrt()
        return (tensors[norm.weight].double() / sigma).cpu()  # type: ignore[index]

    @property
    def intercept(self) -> bool:
        """Whether there is a bias or an offset to write into."""
        return self.site.norm is not None or self.site.bias is not None

    def map(self) -> Tensor:
        """The present affine map, shape (G, O/G, p + 1), float64."""
        tensors, site = self.twin.tensors, self.site
        matrix = self.layout.matrix(tensors[site.weight].double().cpu())
        bias = torch.zeros(matrix.shape[:2], dtype=torch.float64).flatten()
        if site.bias is not None:
            bias = tensors[site.bias].double().cpu()
        scale = self.scale
        if site.norm is not None:
            bias = (bias - tensors[site.norm.mean].double().cpu()) * scale
            bias = bias + tensors[site.norm.bias].double().cpu()  # type: ignore[index]
        shape = (*matrix.shape[:2], 1)
        return torch.cat([matrix * scale.reshape(shape), bias.reshape(shape)], 2)

    def target(self, dense: Values, pruned: Values) -> Tensor:
        """What the layer should give: the dense value, less what the residual connection brings already."""
        value, skip = self.twin.kept(self.site.end, self.twin.dense.value(self.site.end, dense)), self.skip(pruned)
        return value if skip is None else value - skip

    def skip(self, pruned: Values) -> Tensor | None:
        """What the residual connection brings, if there is one."""
        skip = self.site.skip
        return None if skip is None else self.twin.pruned.value(self.twin.copies[skip], pruned)

    def input(self, pruned: Values) -> Tensor:
        """What the layer is given now."""
        found = self.twin.pruned.value(arguments(self.node)["input"], pruned)
        assert isinstance(found, Tensor)
        return found

    def at(self, index: int, target: Tensor) -> Tensor:
        """Flat positions of a batch that are looked at, the same ones in every round."""
        if index not in self._positions:
            self._positions[index] = drawn(self.layout.positions(target), index, self.options).to(target.device)
        return self._positions[index]

    def write(self, matrix: Tensor, gram: Tensor | None = None) -> None:
        """Writes what :meth:`tensors_of` gives."""
        for name, value in self.tensors_of(matrix, gram).items():
            self.twin.write(name, value)

    def tensors_of(self, matrix: Tensor, gram: Tensor | None = None) -> dict[str, Tensor]:
        """Weights and statistics that make the layer and its batch normalisation an affine map (G, O/G, p + 1).

        With the columns' second moments the running statistics become those that the new weights give, and γ
        and β are set so that the map stays the same: training that starts here (and takes the statistics of
        its batches) sees the same network.
        """
        tensors, site, norm = self.twin.tensors, self.site, self.site.norm
        weights, bias = matrix[:, :, :-1], matrix[:, :, -1].flatten()
        if norm is None:
            return {site.weight: self._shaped(weights)} | ({} if site.bias is None else {site.bias: bias})
        assert norm.weight is not None
        assert norm.bias is not None
        scale = self.scale
        tiny = scale.abs() <= 1e-3 * scale.abs().median().clamp_min(1e-12)
        scale = torch.where(tiny, torch.ones_like(scale), scale)
        own = torch.zeros_like(scale) if site.bias is None else tensors[site.bias].double().cpu()
        mean, var = tensors[norm.mean].double().cpu(), tensors[norm.var].double().cpu()
        if gram is not None:
            mean, var = _moments_of(weights, gram)
            mean, var = mean.flatten() / scale + own, var.flatten() / scale**2
        shaped = self._shaped(weights / scale.reshape(*weights.shape[:2], 1))
        gamma, beta = scale * (var + norm.eps).sqrt(), bias + scale * (mean - own)
        return {site.weight: shaped, norm.mean: mean, norm.var: var, norm.weight: gamma, norm.bias: beta}

    def _shaped(self, matrix: Tensor) -> Tensor:
        return self.layout.weight(matrix).reshape(self.twin.tensors[self.site.weight].shape)


def _moments_of(weights: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of W·u, shape (G, O/G) each, from Σ[u;1][u;1]ᵀ."""
    rows = gram[:, -1:, -1:]
    centre = gram[:, :-1, -1:] / rows
    mean = (weights @ centre)[:, :, 0]
    square = ((weights @ gram[:, :-1, :-1]) * weights).sum(2) / rows[:, :, 0]
    return mean, (square - mean**2).clamp_min(1e-12)
