"""Fourier transforms, functions of whole matrices, and complex numbers as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.graph.flow import Call, unlabelled
from secateur.graph.labels import Labels
from secateur.graph.rules import operator

__all__: list[str] = []


def _mixed(call: Call, x: Labels, dims: Sequence[int], reason: str) -> Labels:
    """Dimensions whose entries all depend on one another stay; those of the result that are left keep their labels."""
    mixed = {d % x.ndim for d in dims}
    call.hold(reason, [x.with_dims({d: x.at(d) for d in mixed})])
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d not in mixed})


_FOURIER = "a Fourier transform mixes all entries of this dimension"


@operator("aten.fft_fft", "aten.fft_ifft", "aten.fft_rfft", "aten.fft_irfft", "aten.fft_hfft", "aten.fft_ihfft",
          "aten.fft_fft2", "aten.fft_ifft2", "aten.fft_rfft2", "aten.fft_irfft2", "aten.fft_hfft2", "aten.fft_ihfft2",
          "aten.fft_fftn", "aten.fft_ifftn", "aten.fft_rfftn", "aten.fft_irfftn", "aten.fft_hfftn", "aten.fft_ihfftn",
          )  # fmt: skip
def _fourier(call: Call) -> Labels:
    """Over its dimensions all entries depend on one another; the others pass."""
    x, dims, sizes = call["self"], call.get("dim"), call.get("s")
    if dims is None:  # all, or as many as there are sizes
        dims = range(-len(sizes), 0) if sizes else range(x.ndim)
    return _mixed(call, x, [dims] if isinstance(dims, int) else dims, _FOURIER)


@operator("aten.fft_fftshift", "aten.fft_ifftshift")
def _shift(call: Call) -> Labels:
    """Half of the entries of a dimension come first: where the half is depends on how many there are."""
    return _mixed(call, call["self"], call.dims(), "half of the entries of this dimension change places")


@operator("aten.stft", "aten.istft")
def _short_time(call: Call) -> Labels:
    """Signals (N, T) → (N, frequencies, frames), and back: signals pass."""
    x: Labels = call["self"]
    batch = call.node.all_input_nodes[0].meta["val"].ndim > (1 if "istft" not in str(call.node.target) else 2)
    if isinstance(window := call.get("window"), Labels):
        call.c.pin_all(window)
    return _mixed(call, x, range(int(batch), x.ndim), _FOURIER)


# ------------------------------------------------------------------------------------------------ complex numbers


@operator("aten.view_as_real")
def _as_pairs(call: Call) -> Labels:
    """The new dimension, of two, comes last and carries no labels."""
    return Labels(call.shape).with_dims(dict(call["self"].dims))


@operator("aten.view_as_complex")
def _of_pairs(call: Call) -> Labels:
    """Pairs in the last dimension become one number."""
    x: Labels = call["self"]
    call.c.pin(*x.at(-1))
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d < x.ndim - 1})


# ----------------------------------------------------------------------------------------------- whole matrices


@operator("aten.linalg_inv", "aten.inverse", "aten.linalg_pinv", "aten.pinverse", "aten.linalg_det", "aten.det",
          "aten.linalg_slogdet", "aten.slogdet", "aten.logdet", "aten.linalg_cholesky", "aten.linalg_qr",
          "aten.linalg_svd", "aten.svd", "aten.linalg_svdvals", "aten.linalg_eigh", "aten.linalg_eigvalsh",
          "aten.linalg_matrix_exp", "aten.matrix_exp", "aten.linalg_matrix_power", "aten.matrix_power",
          "aten.linalg_lu", "aten.linalg_lu_factor")  # fmt: skip
def _of_a_matrix(call: Call) -> Any:
    """Every entry of the result depends on the whole matrix; matrices of a batch pass."""
    x: Labels = next(t for t in call.tensors)
    call.hold("every entry of the result depends on the whole matrix", [
        x.with_dims({d: x.at(d) for d in (x.ndim - 2, x.ndim - 1)})
    ])  # fmt: skip
    left = {d: v for d, v in x.dims.items() if d < x.ndim - 2}
    found = unlabelled(call.node)
    return [each.with_dims(left) for each in found] if isinstance(found, list) else found.with_dims(left)


@operator("aten.tril", "aten.triu")
def _triangle(call: Call) -> Labels:
    """Which entries are zero depends on where they stand; matrices of a batch pass."""
    x: Labels = call["self"]
    return _mixed(call, x, (-2, -1), "which entries become zero depends on where they stand")
