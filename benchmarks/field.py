"""Published repairs without training, as their papers have them, for benchmarks that set them beside Secateur's.

They are written from the papers' formulas on plain modules and share no code with `secateur.recover`; of a cut they use
nothing but which channels stayed. `tests/test_benchmarks.py` holds them to the formulas.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from secateur.cut.pruned import Pruned

RIDGE = 1e-3
"""Of GRAIL's regression, relative to the mean diagonal of the kept channels' Gram matrix."""

Keep = Mapping[str, Mapping[int, Any]]
Inputs = Tensor | Sequence[Mapping[str, Tensor]]


def grail(
    dense: nn.Module, cut: Pruned, x: Inputs, *, affine: bool = False, ridge: float = RIDGE, batch: int = 50
) -> nn.Module:
    """GRAIL (arXiv:2602.23795): h ≈ M·h_kept by ridge regression on the dense network's activations, W ← W·M.

    h are the channels that enter a layer, at single positions; the same M serves every tap of a convolution.

    Args:
        dense: The dense network, in eval mode.
        cut: From it; a copy of its network is returned with other weights in the layers that lost input channels.
        x: Calibration images, or batches of named inputs.
        affine: Whether a constant takes part, which goes into the bias (or into the mean of the batch norm behind).
        ridge: Relative to the mean diagonal.
        batch: Images at a time.
    """
    sites = dict(_mixing(dense, cut.plan.keep))
    grams = {name: torch.zeros(()).double() for name in sites}
    with torch.no_grad(), ExitStack() as stack:
        for name, module in sites.items():

            def add(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                h = inputs[0].movedim(1, -1) if inputs[0].ndim == 4 else inputs[0]
                h = h.flatten(0, -2).double()
                h = torch.cat([h, h.new_ones(len(h), 1)], 1) if affine else h
                grams[name] = grams[name] + h.T @ h

            stack.callback(module.register_forward_pre_hook(add).remove)
        _through(dense, x, batch)
    smaller = copy.deepcopy(cut.model)
    for name, module in sites.items():
        keep = cut.plan.keep[f"{name}.weight"]
        mapped = hidden_map(grams[name], torch.as_tensor(list(keep[1])), affine=affine, ridge=ridge)
        weight = module.weight.detach().double()
        weight = weight[torch.as_tensor(list(keep[0]))] if 0 in keep else weight
        _fold(smaller, name, weight, mapped, affine=affine)
    return smaller


def hidden_map(gram: Tensor, kept: Tensor, *, affine: bool = False, ridge: float = RIDGE) -> Tensor:
    """M = G[:, K] (G[K, K] + λ·I)⁻¹, shape (C, K), or (C, K + 1) with the constant last, which is not penalised."""
    columns = torch.cat([kept, torch.tensor([len(gram) - 1])]) if affine else kept
    pull = torch.full((len(columns),), ridge * float(gram[kept, kept].mean()), dtype=gram.dtype)
    if affine:
        pull[-1] = 0
    system = gram[columns][:, columns] + torch.diag(pull)
    found: Tensor = torch.linalg.solve(system, gram[columns][:, : len(gram) - affine]).T
    return found


def corp(
    dense: nn.Module, cut: Pruned, batches: Sequence[Mapping[str, Tensor]], pairs: Sequence[tuple[str, str]],
    size: int, *, ridge: float = RIDGE,
) -> nn.Module:  # fmt: skip
    """CORP (arXiv:2602.05243), as we read it: removed parts as affine functions of kept ones, and of the logits.

    What enters MLPs' second layers and output projections is mapped by :func:`grail`'s affine form. Of every head, with
    Q, K split into the channels that stay (S) and go (P), M minimises Σ ‖Q_S M K_Sᵀ − Q_P K_Pᵀ‖² + λ‖M‖² over the
    sequences, by its normal equations; I + M = U Σ Vᵀ goes into queries (U Σ^½) and keys (V Σ^½), biases too.

    Args:
        dense: The dense network, in eval mode.
        cut: From it, heads cut within.
        batches: Named inputs without padding.
        pairs: Names of the layers that give queries and keys.
        size: Of the dense network's heads.
        ridge: λ, relative to the mean diagonal of the system.
    """
    smaller = grail(dense, cut, batches, affine=True, ridge=ridge)
    outputs: dict[str, Tensor] = {}
    sums: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    kept = {q: torch.as_tensor(list(cut.plan.keep[f"{q}.weight"][0])) for q, _ in pairs}
    with torch.no_grad(), ExitStack() as stack:
        for name in (one for pair in pairs for one in pair):

            def note(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                outputs[name] = output.double()

            stack.callback(dense.get_submodule(name).register_forward_hook(note).remove)
        for batch in batches:
            dense(**batch)
            for q, k in pairs:
                for head in (kept[q] // size).unique().tolist():
                    system, target = logit_sums(*(_split(outputs[n], kept[q], head, size) for n in (q, k)))
                    before = sums.get((q, head), (0, 0))
                    sums[q, head] = before[0] + system, before[1] + target
        for q, k in pairs:
            for place, head in enumerate((kept[q] // size).unique().tolist()):
                system, target = sums[q, head]
                _fold_logits(smaller, q, k, place, logit_map(system, target, ridge))
    return smaller


def logit_sums(queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Normal equations of M of some sequences: (s², s²) and (s, s), from Q_S, Q_P and K_S, K_P of shape (B, T, ·)."""
    (stays, goes), (key_stays, key_goes) = queries, keys
    width = stays.shape[2]
    system = torch.einsum("bij,bkl->ikjl", stays.mT @ stays, key_stays.mT @ key_stays)
    target = ((stays.mT @ goes) @ (key_goes.mT @ key_stays)).sum(0)
    return system.reshape(width**2, width**2), target


def logit_map(system: Tensor, target: Tensor, ridge: float = RIDGE) -> Tensor:
    """I + M, shape (s, s)."""
    pull = ridge * system.diagonal().mean() * torch.eye(len(system), dtype=system.dtype)
    found = torch.linalg.solve(system + pull, target.reshape(-1)).reshape(target.shape)
    return found + torch.eye(len(found), dtype=found.dtype)


def _split(output: Tensor, kept: Tensor, head: int, size: int) -> tuple[Tensor, Tensor]:
    """Channels of a head that stay, and that go."""
    every = torch.arange(head * size, (head + 1) * size)
    stays = torch.isin(every, kept)
    return output[..., every[stays]], output[..., every[~stays]]


def _fold_logits(model: nn.Module, q: str, k: str, place: int, mapped: Tensor) -> None:
    left, values, right = torch.linalg.svd(mapped)
    rows = slice(place * len(mapped), (place + 1) * len(mapped))
    for name, basis in ((q, left * values.sqrt()), (k, right.mT * values.sqrt())):
        module: Any = model.get_submodule(name)
        for tensor in (module.weight, module.bias):
            tensor[rows] = (basis.mT @ tensor[rows].double()).to(tensor.dtype)


def _through(model: nn.Module, x: Inputs, batch: int) -> None:
    for one in x.split(batch) if isinstance(x, Tensor) else x:
        model(one) if isinstance(one, Tensor) else model(**one)


def fold(dense: nn.Module, cut: Pruned, *, seed: int = 0) -> nn.Module:
    """Model folding (ICLR 2025): k-means of the channels' filters; clusters become their mean, and consumers add up.

    Needs no data; batch-norm statistics are to be estimated again behind it. As many channels stay in each group as
    the cut leaves. Features of a channel are its filters in all layers that make it, and what its batch norms add,
    β − μγ/σ: of the features that were tried on ResNet-20 (filters as they are or times γ/σ, with and without the
    offset), and of means with and without γ/σ as weights, these left the highest accuracy.
    """
    from sklearn.cluster import KMeans

    smaller, tensors = copy.deepcopy(cut.model), dense.state_dict()
    written = dict(smaller.state_dict(keep_vars=True))
    found = {name: t.double() for name, t in tensors.items() if t.is_floating_point()}
    for members in _groups(cut.plan.keep, tensors):
        makers = [name for name, dim in members if dim == 0 and tensors[name].ndim > 1]
        norms = [name.removesuffix("running_mean") for name, _ in members if name.endswith("running_mean")]
        features = torch.cat([*(found[n].flatten(1) for n in makers), *(_offset(found, n)[:, None] for n in norms)], 1)
        count = len(cut.plan.keep[members[0][0]][members[0][1]])
        labels = KMeans(count, n_init=10, random_state=seed).fit(features.numpy()).labels_
        chosen = torch.nn.functional.one_hot(torch.as_tensor(labels).long(), count).double()  # (C, K)
        for name, dim in members:
            weights = chosen if dim else chosen / chosen.sum(0)
            found[name] = torch.tensordot(found[name], weights, ([dim], [0])).movedim(-1, dim)
    with torch.no_grad():
        for name, value in found.items():
            if name in written:
                written[name].copy_(value)
    return smaller


def osscar(
    dense: nn.Module, cut: Pruned, x: Tensor, *, ridge: float = 1e-4, batch: int = 50
) -> dict[str, tuple[list[int], Tensor]]:
    """OSSCAR (arXiv:2403.12983): channels by local search on ‖X W − X_S V‖², V by least squares on those that stay.

    Channels go one by one, each time the one whose loss the rest makes good best; then one that went comes back and
    another goes as long as that lowers the error. X is what enters a layer in the dense network.

    Args:
        dense: The dense network, in eval mode.
        cut: From it; it says how many input channels every layer keeps.
        x: Calibration images.
        ridge: Relative to the mean diagonal.
        batch: Images at a time.

    Returns:
        For every layer that loses input channels: those that stay, and its weights (all outputs, channels that stay).
    """
    sites = dict(_mixing(dense, cut.plan.keep))
    grams = {name: torch.zeros(()).double() for name in sites}
    with torch.no_grad(), ExitStack() as stack:
        for name, module in sites.items():

            def add(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name, module: Any = module) -> None:
                rows = _rows(module, inputs[0]).double()
                grams[name] = grams[name] + rows.T @ rows

            stack.callback(module.register_forward_pre_hook(add).remove)
        for images in x.split(batch):
            dense(images)
    found = {}
    for name, module in sites.items():
        weight = module.weight.detach().double()
        size = len(cut.plan.keep[f"{name}.weight"][1])
        taps = weight[0, 0].numel()
        stays, solved = local_search(grams[name], weight.flatten(1).T, size, taps, ridge)
        found[name] = stays, solved.T.reshape(len(weight), size, *weight.shape[2:])
    return found


def _rows(module: Any, x: Tensor) -> Tensor:
    """The rows of X: patches of a convolution (channel by channel, tap by tap), or features."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)
    patches = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.mT.flatten(0, 1)


def local_search(
    gram: Tensor, weight: Tensor, size: int, taps: int, ridge: float, most: int = 100
) -> tuple[list[int], Tensor]:
    """Keeps ``size`` channels of ``taps`` columns each, and solves for their weights.

    Args:
        gram: XᵀX, shape (P, P).
        weight: W, shape (P, O).
        size: Channels that stay.
        taps: Columns of each.
        ridge: Relative to the mean diagonal.
        most: Exchanges at most.

    Returns:
        The channels that stay, ascending, and V of their columns.
    """
    target = gram @ weight
    system = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    blocks = torch.arange(len(gram)).reshape(-1, taps)
    inverse, solved, stays = torch.linalg.inv(system), weight.clone(), list(range(len(blocks)))
    solved = inverse @ target
    while len(stays) > size:
        gone = blocks[stays[int(_losses(inverse, solved, blocks[stays]).argmin())]]
        gain = torch.linalg.solve(inverse[gone][:, gone], inverse[gone]).T
        inverse, solved = inverse - gain @ inverse[gone], solved - gain @ solved[gone]
        stays.remove(int(gone[0]) // taps)
    for _ in range(most):
        exchange = _exchange(system, target, blocks, stays)
        if exchange is None:
            break
        stays = sorted({*stays, exchange[0]} - {exchange[1]})
    kept = blocks[stays].flatten()
    return stays, torch.linalg.solve(system[kept][:, kept], target[kept])


def _losses(inverse: Tensor, solved: Tensor, blocks: Tensor) -> Tensor:
    """Rise of the error when each block of columns goes: tr(V_gᵀ (H_gg)⁻¹ V_g), H the inverse of the system."""
    own = inverse[blocks[:, :, None], blocks[:, None, :]]
    return (solved[blocks] * torch.linalg.solve(own, solved[blocks])).sum((1, 2))


def _exchange(system: Tensor, target: Tensor, blocks: Tensor, stays: list[int]) -> tuple[int, int] | None:
    """The best channel to come back, among the ten that alone would bring most, with the one that then goes."""
    kept = blocks[stays].flatten()
    inverse = torch.linalg.inv(system[kept][:, kept])
    solved = inverse @ target[kept]
    error = float((target[kept] * solved).sum())
    gone = [k for k in range(len(blocks)) if k not in set(stays)]
    reach = inverse @ system[kept][:, blocks[gone].flatten()]
    left = system[blocks[gone].flatten()][:, blocks[gone].flatten()] - system[kept][:, blocks[gone].flatten()].T @ reach
    wanted = target[blocks[gone].flatten()] - system[kept][:, blocks[gone].flatten()].T @ solved
    own = torch.arange(len(gone) * blocks.shape[1]).reshape(len(gone), -1)
    gains = (wanted[own] * torch.linalg.solve(left[own[:, :, None], own[:, None, :]], wanted[own])).sum((1, 2))
    best, found = 1e-9 * error, None
    for k in gains.argsort(descending=True)[:10].tolist():
        block = left[own[k]][:, own[k]]
        more = inverse + reach[:, own[k]] @ torch.linalg.solve(block, reach[:, own[k]].T)
        other = solved - reach[:, own[k]] @ torch.linalg.solve(block, wanted[own[k]])
        losses = _losses(more, other, torch.arange(len(kept)).reshape(len(stays), -1))
        if float(gains[k] - losses.min()) > best:
            best, found = float(gains[k] - losses.min()), (gone[k], stays[int(losses.argmin())])
    return found


def _mixing(dense: nn.Module, keep: Keep) -> Iterator[tuple[str, Any]]:
    """Layers that lose input channels and mix all of them."""
    for name, module in dense.named_modules():
        mixes = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if mixes and 1 in keep.get(f"{name}.weight", {}):
            yield name, module


def _fold(model: nn.Module, name: str, weight: Tensor, mapped: Tensor, *, affine: bool) -> None:
    """W ← W·M, and what the constant brings into the bias or the mean of the batch norm behind."""
    module: Any = model.get_submodule(name)
    kept = mapped.shape[1] - affine
    with torch.no_grad():
        module.weight.copy_(torch.einsum("oc...,ck->ok...", weight, mapped[:, :kept]))
        if not affine:
            return
        offset = torch.einsum("oc...,c->o...", weight, mapped[:, -1]).reshape(len(weight), -1).sum(1)
        if module.bias is not None:
            module.bias.add_(offset)
        else:
            _norm_behind(model, module).running_mean.sub_(offset)


def _norm_behind(model: nn.Module, module: nn.Module) -> Any:
    """The next batch norm in the order of definition."""
    modules = list(model.modules())
    behind = modules[modules.index(module) + 1 :]
    return next(m for m in behind if isinstance(m, nn.modules.batchnorm._BatchNorm))


def _groups(keep: Keep, tensors: Mapping[str, Tensor]) -> list[list[tuple[str, int]]]:
    """Tensors with their dimensions, by the channels that stay: what is cut together keeps the same ones."""
    found: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, dims in keep.items():
        for dim, kept in dims.items():
            if name in tensors:
                found.setdefault((tensors[name].shape[dim], *kept), []).append((name, dim))
    return list(found.values())


def _offset(tensors: Mapping[str, Tensor], norm: str) -> Tensor:
    """β − μγ/σ of a batch norm, by the beginning of its tensors' names."""
    mean, var, scale, bias = (tensors[norm + part] for part in ("running_mean", "running_var", "weight", "bias"))
    return bias - mean * scale / (var + 1e-5).sqrt()
