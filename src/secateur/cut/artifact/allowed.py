"""What a graph in a file may do: operators of tensors and arithmetic of sizes, by name, and nothing else.

Every operator with a rule in :mod:`secateur.graph.ops` is among them but for :data:`UNCHECKED`, and those of
:data:`MORE`. Left out is what reads files (``aten.from_file``) or takes over another tensor's memory (``aten.set_``,
``aten.resize_``), and what was found to compute beyond its tensors where shapes do not fit; operators of that kind that
networks need are those of :mod:`.checked`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from secateur.cut.artifact.checked import CHECKED
from secateur.graph.guard import require
from secateur.graph.ops import OPERATORS

__all__ = ["MORE", "UNCHECKED", "constant", "name_of", "named"]

MORE = frozenset(
    """
    allclose as_strided as_strided_scatter atleast_1d atleast_2d atleast_3d bartlett_window binary_cross_entropy
    binary_cross_entropy_with_logits bincount blackman_window cartesian_prod cholesky_solve combinations conv_tbc
    corrcoef cosine_embedding_loss cov cross_entropy_loss diagflat equal
    fft_fftfreq fft_rfftfreq frobenius_norm hamming_window hann_window
    hinge_embedding_loss huber_loss is_complex is_floating_point isin kaiser_window kl_div l1_loss linalg_cond
    linalg_lstsq linalg_matmul linalg_matrix_norm linalg_norm linalg_solve linalg_solve_triangular linalg_vander
    logspace mH margin_ranking_loss meshgrid mse_loss multi_margin_loss multinomial native_group_norm
    native_layer_norm nll_loss nll_loss_nd nonzero_static normal_functional nuclear_norm numel pad_sequence
    poisson_nll_loss randperm range rrelu_with_noise smooth_l1_loss soft_margin_loss special_log_softmax
    special_logsumexp special_softmax special_zeta sym_constrain_range sym_constrain_range_for_size
    sym_storage_offset sym_stride triangular_solve tril_indices triplet_margin_loss triu_indices vander __iand__
    __ior__ __ixor__
    """.split()  # noqa: SIM905 (a list of them would be three hundred lines)
)
"""Operators of ``aten`` that have no rule of their own and that a graph may hold all the same."""

UNCHECKED = frozenset(f"aten.{name}" for name in (
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_weight_norm_interface",
    "embedding_renorm", "index_reduce", "nonzero_numpy", "segment_reduce",
    "_fake_quantize_learnable_per_channel_affine", "_fake_quantize_learnable_per_tensor_affine",
    "fused_moving_avg_obs_fake_quant", "_fused_moving_avg_obs_fq_helper",
))  # fmt: skip
"""Operators that read beyond weights that are too short, and some of which nobody has tried whether they do."""

_LARGEST = 2**63


def _of_sizes(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Arithmetic of ``count`` sizes, and of nothing else.

    A few multiplications in a row would fill the memory with one number, ``round(1, -10**9)`` and ``"%999999999d" % 1``
    in a single step.
    """

    @functools.wraps(function)
    def checked(*values: Any) -> Any:
        if len(values) != count:
            raise ValueError(f"{function.__name__} takes {count} sizes, not {len(values)}")
        for value in values:
            if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
                raise ValueError(f"{function.__name__} is arithmetic of sizes, not of {type(value).__name__}")
        found = function(*values)
        if type(found) is int and abs(found) >= _LARGEST:
            raise ValueError(f"{function.__name__} gives a number that is no size")
        return found

    checked.__module__, checked.__qualname__ = __name__, function.__name__
    return checked


add, sub, mul = (_of_sizes(f, 2) for f in (operator.add, operator.sub, operator.mul))
floordiv, truediv, mod = (_of_sizes(f, 2) for f in (operator.floordiv, operator.truediv, operator.mod))
neg, ceil, floor = (_of_sizes(f, 1) for f in (operator.neg, math.ceil, math.floor))
trunc, sqrt, round_ = (_of_sizes(f, 1) for f in (math.trunc, math.sqrt, round))
round_.__name__ = round_.__qualname__ = "round_"  # no file calls it so: the name is Python's own
_ARITHMETIC = {
    operator.add: add, operator.sub: sub, operator.mul: mul, operator.floordiv: floordiv, operator.truediv: truediv,
    operator.mod: mod, operator.neg: neg, math.ceil: ceil, math.floor: floor, math.trunc: trunc, math.sqrt: sqrt,
    round: round_,
}  # fmt: skip
"""What a traced graph calls, and what the graph of a file calls in its place."""


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{plain.__name__: checked for plain, checked in _ARITHMETIC.items()},
    **{f.__name__: f for f in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
                               operator.and_, operator.or_, operator.not_, operator.getitem,
                               require, torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not,
                               torch.sym_ite)},
}  # fmt: skip
_NAMES: dict[Any, str] = {
    **{function: name for name, function in _FUNCTIONS.items()},
    **{plain: plain.__name__ for plain in _ARITHMETIC},
    **{function: name for name, function in CHECKED.items()},
}


def name_of(target: Any) -> str | None:
    """What a file calls an operator or function, ``None`` where it may not hold it.

    >>> name_of(torch.ops.aten.conv2d.default), name_of(operator.mul), name_of(torch.ops.aten.from_file.default)
    ('aten.conv2d.default', 'mul', None)
    """
    if isinstance(target, OpOverload):
        return str(target) if named(str(target)) is not None else None
    try:
        return _NAMES.get(target)
    except TypeError:  # not hashable
        return None


def named(name: str) -> Any:
    """The operator or function that a file calls ``name``, ``None`` where it may not hold it.

    >>> named("aten.conv2d.default"), named("os.system"), named("aten.from_file.default")
    (<OpOverload(op='aten.conv2d', overload='default')>, None, None)
    """
    if (own := _FUNCTIONS.get(name) or CHECKED.get(name)) is not None:
        return own
    library, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    plain = packet.removesuffix("_")
    known = {f"{library}.{packet}", f"{library}.{plain}"}
    if known & UNCHECKED or not (any(k in OPERATORS for k in known) or _more(library, packet, plain)):
        return None
    found = getattr(getattr(getattr(torch.ops, library, None), packet, None), overload, None)
    return found if overload and isinstance(found, OpOverload) else None


def _more(library: str, packet: str, plain: str) -> bool:
    return library == "aten" and (packet in MORE or plain in MORE)


_CONSTANTS: dict[type, dict[str, Any]] = {
    kind: {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, kind)}
    for kind in (torch.dtype, torch.layout, torch.memory_format)
}


def constant(name: Any, kind: type) -> Any:
    """The dtype, layout or memory format that a file calls ``name``, ``None`` where there is none.

    >>> constant("float32", torch.dtype), constant("load", torch.dtype)
    (torch.float32, None)
    """
    return _CONSTANTS[kind].get(name) if isinstance(name, str) else None
