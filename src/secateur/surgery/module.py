"""The module back end: a copy of the user's own network, same classes, with smaller parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import PlanError
from secateur.core.plan import Place
from secateur.graph.copies import copy_network
from secateur.graph.places import changed
from secateur.surgery.adapted import ranks_made_true
from secateur.surgery.graph import sliced_parameter
from secateur.surgery.shorten import Shortened, drop_elements, number_anew
from secateur.surgery.substitutes import substitute

__all__ = ["prune_module"]

Keep = Mapping[str, Mapping[int, Sequence[int]]]


def prune_module(
    model: nn.Module, keep: Keep, replaced: Mapping[str, str] | None = None,
    indices: Mapping[str, Sequence[int]] | None = None, numbers: Mapping[Place, float] | None = None,
    shortened: Shortened | None = None,
) -> nn.Module:  # fmt: skip
    """Copies ``model`` with sliced parameters and buffers, and updates the sizes that known layers remember.

    Dense weights are never copied: slices take their place while the module tree is being copied.

    Args:
        model: The dense network (not touched).
        keep: Kept indices by parameter or buffer name and dimension.
        replaced: Modules that something without weights takes the place of (a removed residual branch).
        indices: New values of buffers of whole numbers that point at channels.
        numbers: New values of numbers that attributes of the user's classes hold.
        shortened: Elements that stay of lists of modules; they are numbered anew.

    Raises:
        PlanError: ``keep``, ``numbers`` or ``replaced`` names something that ``model`` does not have, or
            indices out of range.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    _check(tensors, keep)
    if strange := set(indices or {}) - set(tensors):
        raise PlanError(f"The plan renumbers {sorted(strange)[0]!r}, which this network does not have.")
    sliced: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in sliced:
            sliced[id(tensor)] = sliced_parameter(tensor, keep.get(name, {}))
        if name in (indices or {}):
            sliced[id(tensor)] = _renumbered(name, tensor, indices[name])  # type: ignore[index]
    pruned = copy_network(model, sliced, lambda t: t.detach().clone())
    for path, module in pruned.named_modules():
        for kind, update in _UPDATES.items():
            if isinstance(module, kind):
                update(module, keep.get(f"{path}.weight".lstrip("."), {}))
    changed(pruned, numbers or {})
    for module in pruned.modules():
        if isinstance(module, nn.MultiheadAttention):
            _attention(module)
    ranks_made_true(pruned)
    for path, instead in (replaced or {}).items():
        _replace(pruned, path, instead)
    for path, kept in (shortened or {}).items():
        held = _submodule(pruned, path)
        if not isinstance(held, nn.ModuleList) or kept[-1] >= len(held):
            raise PlanError(f"The plan keeps element {kept[-1]} of {path!r}, which this network does not have.")
    drop_elements(pruned, shortened or {})
    number_anew(pruned, shortened or {})
    return pruned


def _renumbered(name: str, tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex() or len(numbers) > len(tensor):
        raise PlanError(
            f"The plan gives {name!r} {len(numbers)} numbers; in this network it is of shape {tuple(tensor.shape)}, "
            f"{tensor.dtype}, and only a row of whole numbers can be renumbered."
        )
    return tensor.new_tensor(numbers)


def _submodule(pruned: nn.Module, path: str) -> nn.Module:
    try:
        return pruned.get_submodule(path)
    except AttributeError as error:
        raise PlanError(f"The plan changes the module {path!r}, which this network does not have.") from error


def _replace(pruned: nn.Module, path: str, instead: str) -> None:
    if not path:
        raise PlanError("The plan replaces the network itself, of which nothing would be left.")
    mode = _submodule(pruned, path).training
    pruned.set_submodule(path, substitute(instead).train(mode))


def _check(tensors: Mapping[str, Tensor], keep: Keep) -> None:
    for name, dims in keep.items():
        if name not in tensors:
            raise PlanError(f"The plan cuts {name!r}, which {len(tensors)} parameters and buffers do not include.")
        for dim, indices in dims.items():
            shape = tuple(tensors[name].shape)
            if dim >= len(shape) or (len(indices) and max(indices) >= shape[dim]):
                raise PlanError(
                    f"The plan keeps index {max(indices)} in dimension {dim} of {name!r}, whose shape is {shape}."
                )


def _groups_left(kept: Mapping[int, Sequence[int]], channels: int, groups: int) -> int:
    """Groups of which at least one channel stays (all of them where positions within groups went)."""
    return len({i // (channels // groups) for i in kept[0]}) if 0 in kept else groups


def _conv(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    rows, columns = m.weight.shape[:2]
    m.groups = _groups_left(kept, m.in_channels if m.transposed else m.out_channels, m.groups)
    inner = columns * m.groups
    m.in_channels, m.out_channels = (rows, inner) if m.transposed else (inner, rows)


def _linear(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    m.out_features, m.in_features = m.weight.shape


def _features(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    tensor = next((t for t in (m.weight, m.running_mean) if t is not None), None)
    if tensor is not None:
        m.num_features = len(tensor)


def _layer_norm(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    if m.weight is not None:
        m.normalized_shape = tuple(m.weight.shape)


def _group_norm(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    if m.weight is not None:
        m.num_groups = _groups_left(kept, m.num_channels, m.num_groups)
        m.num_channels = len(m.weight)


def _prelu(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    m.num_parameters = len(m.weight)


def _recurrent(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    m.input_size, m.hidden_size = m.weight_ih_l0.shape[1], m.weight_hh_l0.shape[1]
    if m.proj_size:
        m.proj_size, m.hidden_size = m.weight_hr_l0.shape


def _cell(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    m.input_size, m.hidden_size = m.weight_ih.shape[1], m.weight_hh.shape[1]


def _attention(m: Any) -> None:
    """What attention remembers beside what it reads; after its width and its heads are known."""
    m.head_dim = m.embed_dim // m.num_heads
    if m._qkv_same_embed_dim:
        m.kdim = m.vdim = m.embed_dim


def _embedding(m: Any, kept: Mapping[int, Sequence[int]]) -> None:
    m.num_embeddings, m.embedding_dim = m.weight.shape


_UPDATES: dict[type[nn.Module], Callable[[Any, Mapping[int, Sequence[int]]], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _features,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
}
