"""Sizes that PyTorch's own layers remember beside their weights, as these weights say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["refresh_attention", "resize"]

Kept = Mapping[int, Sequence[int]]


def resize(module: nn.Module, kept: Kept) -> None:
    """Makes the sizes true that a layer remembers, after its tensors were cut.

    Args:
        module: A layer that has its new tensors; nothing is done to one that remembers no sizes.
        kept: Kept indices of its ``weight`` by dimension.
    """
    for kind, update in _UPDATES.items():
        if isinstance(module, kind):
            update(module, kept)


def _groups_left(kept: Kept, channels: int, groups: int) -> int:
    """Groups of which at least one channel stays (all of them where positions within groups went)."""
    return len({i // (channels // groups) for i in kept[0]}) if 0 in kept else groups


def _conv(m: Any, kept: Kept) -> None:
    rows, columns = m.weight.shape[:2]
    m.groups = _groups_left(kept, m.in_channels if m.transposed else m.out_channels, m.groups)
    inner = columns * m.groups
    m.in_channels, m.out_channels = (rows, inner) if m.transposed else (inner, rows)


def _linear(m: Any, kept: Kept) -> None:
    m.out_features, m.in_features = m.weight.shape


def _features(m: Any, kept: Kept) -> None:
    tensor = next((t for t in (m.weight, m.running_mean) if t is not None), None)
    if tensor is not None:
        m.num_features = len(tensor)


def _layer_norm(m: Any, kept: Kept) -> None:
    if m.weight is not None:
        m.normalized_shape = tuple(m.weight.shape)


def _group_norm(m: Any, kept: Kept) -> None:
    if m.weight is not None:
        m.num_groups = _groups_left(kept, m.num_channels, m.num_groups)
        m.num_channels = len(m.weight)


def _prelu(m: Any, kept: Kept) -> None:
    m.num_parameters = len(m.weight)


def _recurrent(m: Any, kept: Kept) -> None:
    m.input_size, m.hidden_size = m.weight_ih_l0.shape[1], m.weight_hh_l0.shape[1]
    if m.proj_size:
        m.proj_size, m.hidden_size = m.weight_hr_l0.shape


def _cell(m: Any, kept: Kept) -> None:
    m.input_size, m.hidden_size = m.weight_ih.shape[1], m.weight_hh.shape[1]


def refresh_attention(m: Any) -> None:
    """What attention remembers beside what it reads; after its width and its heads are known."""
    m.head_dim = m.embed_dim // m.num_heads
    if m._qkv_same_embed_dim:
        m.kdim = m.vdim = m.embed_dim


def _embedding(m: Any, kept: Kept) -> None:
    m.num_embeddings, m.embedding_dim = m.weight.shape


_UPDATES: dict[type[nn.Module], Callable[[Any, Kept], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _features,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
}
