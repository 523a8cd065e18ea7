"""The stop of a sweep at which an attention's queries and keys are fitted to the dense network's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from secateur.core.errors import InputError
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.sweep import Adjustment
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.recovery.attention.ahead import Ahead
from secateur.recovery.attention.alternate import Maps, Samples, alternated, divergence
from secateur.recovery.attention.find import Attention
from secateur.recovery.attention.followed import Followed, second_half
from secateur.recovery.attention.lowrank import closest_logits
from secateur.recovery.attention.operands import Unrepaired
from secateur.recovery.attention.placed import Placed, View

__all__ = ["LogitFit"]

ENTRIES = 1 << 23
"""Logits that are kept at a time, to fit on and to measure on; second moments are of all samples."""

ROUNDING = 1e-13
"""Divergences (nats) that differ by less are the same."""


@dataclass
class _Fold:
    """What is known of the even or of the odd samples: second moments, and some of the samples themselves."""

    queries: Tensor
    keys: Tensor
    samples: list[Samples]
    present: list[Tensor]


class LogitFit(Adjustment):
    """New query and key weights of the cut head size, whose logits are nearest to the dense network's.

    Not the channels that were kept are fitted, but the products: any basis of the kept size may be chosen in each head,
    for nothing but the logits Q·Kᵀ sees it, up to a constant per query, which the softmax does not see. First the dense
    network's queries and keys are predicted from what the pruned network computes now (linear least squares), then
    mapped to the kept size: in closed form (:func:`closest_logits`) and from there in turn (:func:`alternated`). Where
    positions rotate queries and keys, a free basis is not allowed: the kept pairs of channels are fitted in turn, with
    the rotation of every position in the logits.

    What is written is what is best on samples that it was not fitted on: one of these, the channels that were kept, or
    the weights as they were. Values and output projections are fitted by stops of their own.

    Sources: low-rank matrix approximation (Eckart and Young 1936, The approximation of one matrix by another of lower
    rank); attention fitted in closed form after a cut, to the channels that were kept: CORP, arXiv:2602.05243.
    """

    def __init__(self, twin: Twin, attention: Attention, options: Options) -> None:
        """Starts with empty sums."""
        super().__init__()
        self.twin, self.attention, self.options = twin, attention, options
        self.name, self.passes = attention.name, 2
        self.shared = attention.shared
        self.groups = len(attention.heads) // self.shared
        self._followed = Followed(twin, attention, options)
        self._folds: dict[int, _Fold] = {}
        self._instances = 0
        self._seen: tuple[Placed, Placed, Placed, Placed] | None = None
        self._ratio, self._failed = 1.0, ""
        self.before = self.after = float("nan")

    def until(self) -> tuple[int, ...]:
        """What the layers are given is there, in both networks."""
        first = self.attention.first
        return self.twin.dense.place[first], self.twin.pruned.place[self.twin.copies[first]]

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch: first what predicts the dense network's queries and keys, then the logits."""
        if self._failed:
            return
        try:
            dense, pruned = self._views(values)
        except (Unrepaired, KeyError) as why:
            self._failed = str(why) if isinstance(why, Unrepaired) else f"{why} is not computed any more"
            return
        if turn == 0:
            self._instances += dense.query.rows.shape[1]
            self._followed.add(index, dense, pruned, _used(self.attention, dense))
        else:
            self._add(index, dense, pruned)

    def _views(self, values: Sequence[Values]) -> tuple[View, View]:
        twin, attention = self.twin, self.attention
        dense, pruned = (Ahead(w, v) for w, v in zip((twin.dense, twin.pruned), values, strict=True))
        numbers = [{c: h for h, head in enumerate(of) for c in head.query} for of in (attention.heads, attention.kept)]
        return View(attention, dense, _itself, numbers[0]), View(attention, pruned, twin.copies.__getitem__, numbers[1])

    # ----------------------------------------------------------------------------------------- what is seen

    def _add(self, index: int, dense: View, pruned: View) -> None:
        predicted = [self._followed.predicted(s, pruned.inputs(s)) for s in (self.attention.query, self.attention.key)]
        queries, keys = dense.query.taken(predicted[0]), dense.key.taken(predicted[1])[:: self.shared]
        own = pruned.scale * pruned.query.scale * pruned.key.scale
        self._seen = (dense.query, dense.key, pruned.query, pruned.key)
        self._ratio = dense.scale * dense.query.scale * dense.key.scale / own
        count = keys.shape[1]
        for some in dense.pieces():
            of = dense.logits(some), pruned.logits(some), dense.bias(some), _rows(self.attention, dense, some)
            target, present, bias, rows = map(self._grouped, of)
            if not bool(torch.isfinite(target).all() and torch.isfinite(present).all()):
                raise InputError(f"The logits of {self.name!r} hold NaN or infinite values on the calibration data.")
            mixes = (_part(m, some) for m in (pruned.query.mix, pruned.key.mix))
            query = self._grouped(queries[:, some])
            seen = Samples(query, keys[:, some], target, bias, rows, own, *mixes)
            second = second_half(count, index)[some]
            for fold in (0, 1):
                mine = (second == bool(fold)).nonzero().ravel()
                if len(mine):
                    part = slice(int(mine[0]), int(mine[-1]) + 1)
                    self._add_fold(fold, seen.part(part), present[:, :, part])

    def _grouped(self, value: Tensor) -> Tensor:
        """(H, …) as (G, r, …)."""
        return value.reshape(self.groups, self.shared, *value.shape[1:])

    def _add_fold(self, fold: int, samples: Samples, present: Tensor) -> None:
        empty = torch.zeros((self.groups, *samples.queries.shape[-1:] * 2), dtype=torch.float64)
        into = self._folds.setdefault(fold, _Fold(empty, empty.clone(), [], []))
        q = torch.where(samples.rows[..., None], samples.queries, 0)
        into.queries += torch.einsum("grnld,grnle->gde", q, q).cpu().double()
        share, keys = samples.weights().sum((1, 3)), samples.keys
        mean = (share[..., None] * keys).sum(2, keepdim=True) / share.sum(2)[..., None, None].clamp_min(1e-30)
        into.keys += torch.einsum("gnsd,gnse->gde", share[..., None] * (keys - mean), keys - mean).cpu().double()
        self._keep(into, samples, present)

    def _keep(self, into: _Fold, samples: Samples, present: Tensor) -> None:
        """Keeps some of the samples, as many of all batches as there is room for, and one at least."""
        each, count = samples.target[:, :, 0].numel(), samples.queries.shape[2]
        if into.samples and sum(s.target.numel() for s in into.samples) > ENTRIES // 2:
            return
        some = slice(0, max(1, min(count, ENTRIES * count // (each * self._instances))))
        into.samples.append(samples.part(some))
        into.present.append(present[:, :, some].clone())

    # --------------------------------------------------------------------------------------- what is fitted

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        if self._failed or (turn and not self._folds):
            self.notes += [f"its queries and keys stay as they were cut: {self._failed}"] if turn else []
        elif turn == 0:
            self._followed.solve()
            self.notes += self._followed.notes
        else:
            self._choose()
            self._folds.clear()

    def _choose(self) -> None:
        folds = [self._folds[k] for k in sorted(self._folds)]
        held, tried = folds[-1], self._candidates(folds[:1])
        errors = [_present(held)] + [divergence(held.samples, _logits(maps)) for maps in tried]
        best = _first_best(errors)
        self.before = float(errors[0].mean())
        self.after = float(torch.stack(errors).amin(0).mean())
        if bool((best == 0).any()):
            kept = int((best == 0).sum())
            said = f"queries and keys of {kept} of {self.groups} heads stay as they were cut"
            self.notes.append(f"{said}: no fit was nearer on held-out samples")
        if bool((best == 0).all()):
            return
        every = self._candidates(folds)
        chosen = every[0]
        for number, maps in enumerate(every[1:], 2):
            chosen = maps.where(best == number, chosen)
        self._followed.write(chosen, best > 0, *self._placed())

    def _placed(self) -> tuple[Placed, Placed, Placed, Placed]:
        assert self._seen is not None
        return self._seen

    def _candidates(self, folds: Sequence[_Fold]) -> list[Maps]:
        """The channels that were kept, the closed form where a basis is free, and what is fitted in turn from there."""
        queries = sum((f.queries for f in folds[1:]), folds[0].queries)
        keys = sum((f.keys for f in folds[1:]), folds[0].keys)
        samples = [s for f in folds for s in f.samples]
        found = [self._kept()]
        size = found[0].key.shape[1]
        if samples[0].mix_query is None and samples[0].mix_key is None:
            query, key = closest_logits(queries, keys, size)
            found.append(Maps(self._ratio * query[:, None].expand(-1, self.shared, -1, -1), key))
        found.append(alternated(samples, found[-1], queries, keys))
        return found

    def _kept(self) -> Maps:
        """Maps to the channels that were kept."""
        dense_query, dense_key, query, key = self._placed()
        queries = self._followed.same(self.attention.query, dense_query.channels, query.channels)
        keys = self._followed.same(self.attention.key, dense_key.channels, key.channels)
        return Maps(self._ratio * self._grouped(queries), keys[:: self.shared])


def _itself(node: Node) -> Node:
    return node


def _logits(maps: Maps) -> Callable[[Samples], Tensor]:
    def of(one: Samples) -> Tensor:
        return one.scale * torch.einsum("grnle,gnse->grnls", one.mapped_queries(maps.query), one.mapped_keys(maps.key))

    return of


def _present(fold: _Fold) -> Tensor:
    logits = {id(s): p for s, p in zip(fold.samples, fold.present, strict=True)}
    return divergence(fold.samples, lambda one: logits[id(one)])


def _first_best(errors: Sequence[Tensor]) -> Tensor:
    """Number of the smallest error of every group; a later one has to be smaller by more than rounding."""
    found, least = torch.zeros(len(errors[0]), dtype=torch.long), errors[0]
    for number, error in enumerate(errors[1:], 1):
        better = error < (1 - 1e-3) * least - ROUNDING
        found, least = torch.where(better, number, found), torch.where(better, error, least)
    return found


def _part(mix: Tensor | None, some: slice) -> Tensor | None:
    return mix if mix is None or len(mix) == 1 else mix[some]


def _rows(attention: Attention, view: View, some: slice) -> Tensor:
    """Which queries of some instances count, (H, n, L): not those whose keys are all masked, nor padding.

    Padding is a position that looks at itself and that nobody may look at.
    """
    free = view.free(some)
    rows = free.any(-1)
    query, key = attention.query.projection, attention.key.projection
    places = view.key.rows[..., :: view.stride]
    if query.input is key.input and torch.equal(view.query.rows, places):
        rows = rows & free.any(-2)[..., :: view.stride]
    return rows


def _used(attention: Attention, view: View) -> tuple[Tensor, Tensor]:
    """Entries of queries (H, n, L) and keys (H, n, S) that count."""
    rows = [_rows(attention, view, some) for some in view.pieces()]
    keys = [(view.free(s) & r[..., None]).any(-2) for s, r in zip(view.pieces(), rows, strict=True)]
    return torch.cat(rows, 1), torch.cat(keys, 1)
