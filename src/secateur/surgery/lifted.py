"""Any network in double precision, with the same random numbers in the dense and in the pruned one.

Casts to lower precision (inside RMSNorm, rotary embeddings, autocast) are lifted, because a difference of 1e-9 cannot
be seen through them. The user's code is not touched: this mode stands between it and the operators.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.attributes import Constants
from secateur.graph.chance import middle
from secateur.graph.ops import Kind, Law, facts_of
from secateur.graph.schema import bound, plain_name
from secateur.surgery.depthwise import depthwise, is_depthwise
from secateur.surgery.grouped import grouped_product
from secateur.surgery.imitated import fake_quantised

__all__ = ["Draws", "Lifted", "Unlike", "Watched", "double"]

Masks = Mapping[int, NDArray[np.bool_]]

_WIDER = {
    torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128, torch.complex32: torch.complex128,
}  # fmt: skip
_NUMBERS = {int, float, bool, str, type(None)}
_DRAWING = threading.Lock()  # the global generator is seeded before every draw


class Unlike(Exception):
    """The pruned network asks for other random numbers than the dense one."""


def double(value: Any) -> Any:
    """A floating tensor (or type) in double precision; anything else as it is."""
    if isinstance(value, Tensor) and value.dtype in _WIDER:
        return value.to(_WIDER[value.dtype])
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@cache
def _written(func: Any) -> tuple[int, ...]:
    """Positions of the arguments that an operator writes into."""
    arguments = func._schema.arguments
    return tuple(i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


def _known(func: Any) -> tuple[str, Kind | None, bool]:
    """Name and kind of an operator, and whether it can draw random numbers."""
    name = plain_name(func)
    return name, facts_of(name).kind, torch.Tag.nondeterministic_seeded in func.tags


@dataclass
class Draws:
    """Random numbers that the dense network drew, in order, cut to what the pruned network has to draw."""

    drawn: list[tuple[str, Tensor]] = field(default_factory=list)
    taken: int = 0

    def next(self, name: str, shape: torch.Size) -> Tensor:
        """The next one; raises :class:`Unlike` where another one is asked for."""
        if self.taken == len(self.drawn):
            raise Unlike(f"it draws more random numbers than the dense one ({name})")
        known, value = self.drawn[self.taken]
        self.taken += 1
        if (known, value.shape) != (name, shape):
            raise Unlike(f"it draws {name} of shape {tuple(shape)} where {known} of {tuple(value.shape)} is due")
        return value.clone()


class Lifted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs what is inside in double precision and with known random numbers.

    Args:
        draws: Where random numbers are written to (the dense network), or taken from (``again``).
        again: Whether this is the pruned network.
        masks: Gives, for a shape, the kept entries of what the operator that runs now has to draw (dense network).
        seen: Called with every operator's name and result.
        soft: Whether fake quantisation leaves out its rounding, so that nothing hides behind it.
    """

    def __init__(
        self,
        draws: Draws,
        *,
        again: bool = False,
        masks: Callable[[torch.Size], Masks] = lambda shape: {},
        seen: Callable[[str, Any], None] | None = None,
        soft: bool = False,
    ) -> None:
        """Nothing is run yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws, self._again, self._masks, self._seen, self._soft = draws, again, masks, seen, soft
        self._known: dict[Any, tuple[str, Kind | None, bool]] = {}
        self._constants: list[Constants] = []

    def __enter__(self) -> Lifted:
        """Sees also what ``x.new_tensor`` makes; entered again (an operator is taken apart) by a new mode."""
        self._constants.append(Constants())
        self._constants[-1].__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """As before."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._constants.pop().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operator."""
        name, kind, seeded = self._known.get(func) or self._known.setdefault(func, _known(func))
        if kind is Kind.TYPE_CHECK:  # states the types that were there before they were lifted
            return None
        source: Any = args[0] if args else None
        args, kwargs = self._lifted(func, args, kwargs or {})
        if seeded and _draws(func, args, kwargs):
            result = self._random(func, name, args, kwargs)
        elif kind is Kind.CONV and is_depthwise(func, args, kwargs):
            result = depthwise(func, args)
        elif kind is Kind.GROUPED and args[0].ndim == 2:
            result = grouped_product(func, args, kwargs)
        elif kind is Kind.FAKE_QUANTISE:
            result = fake_quantised(func, args, kwargs, soft=self._soft)
        else:
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and not _written(func):
                result = double(result)  # what is made from no tensor has the default type
        if kind is Kind.CAST and result is source:
            result = result.clone()  # a cast that would have made a copy still does
        if self._seen is not None:
            self._seen(name, result)
        return result

    def _lifted(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        written = _written(func)
        if func in _MADE:
            return (_narrow(args[0]), *args[1:]), kwargs
        if not written:
            return _each(double, args), _each(double, kwargs)
        into = args[written[0]] if written[0] < len(args) else None
        if isinstance(into, Tensor) and into.dtype in _WIDER:  # made outside of this mode: others come down to it
            kind = into.dtype
            return _each(lambda v: _as(v, kind), args), _each(lambda v: _as(v, kind), kwargs)
        return tuple(a if i in written else _each(double, a) for i, a in enumerate(args)), _each(double, kwargs)

    # ------------------------------------------------------------------------------------------------ random numbers

    def _random(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if (single := middle(func, args, kwargs)) is not None:
            return double(single)
        kwargs = {k: v for k, v in kwargs.items() if k != "generator"}
        law = facts_of(name).law
        if law is Law.COINS:
            return self._chances(func, name, args, kwargs)
        if func._can_decompose():
            # A mode that sees functions would call the operator instead of its parts, which ends here again.
            with self, torch._C.DisableTorchFunction():
                return func.decompose(*args, **kwargs)
        if law is Law.NORMAL and any(isinstance(a, Tensor) for a in args[:2]) and not _written(func):
            mean, std = args[0], args[1] if len(args) > 1 else 1.0
            like: Any = mean if isinstance(mean, Tensor) else std
            return mean + std * self._noise(name, lambda: torch.randn_like(like))
        if law is Law.DATA:  # the law depends on the data: the same seed gives the same numbers
            return self._noise(name, lambda: func(*args, **kwargs), recorded=False)
        drawn = self._noise(name, lambda: func(*args, **kwargs).clone())
        return args[0].copy_(drawn) if _written(func) else drawn

    def _chances(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Coins that fall by a probability: one uniform number each, so that a wrong probability is seen."""
        x = args[0]
        given: Any = bound(func, args, kwargs).get("p")  # one half where it is not given: bernoulli_ of an empty tensor
        uniform = self._noise(name, lambda: torch.rand(x.shape, dtype=torch.float64, device=x.device))
        if facts_of(name).kind is Kind.DROPOUT:
            stays = uniform >= given
            return x * stays / (1 - given), stays
        fell = (uniform < (x if given is None else given)).to(x.dtype)
        return x.copy_(fell) if _written(func) else fell

    def _noise(self, name: str, draw: Callable[[], Tensor], *, recorded: bool = True) -> Tensor:
        with _DRAWING:
            torch.manual_seed(len(self._draws.drawn) if not self._again else self._draws.taken)
            value: Tensor = double(draw())
        if not recorded:
            self._count(name)
            return value
        if self._again:
            return self._draws.next(name, value.shape).to(value.dtype)
        self._draws.drawn.append((name, self._kept(value)))
        return value

    def _count(self, name: str) -> None:
        nothing = torch.zeros(0)
        if self._again:
            self._draws.next(name, nothing.shape)
        else:
            self._draws.drawn.append((name, nothing))

    def _kept(self, value: Tensor) -> Tensor:
        for dim, mask in self._masks(value.shape).items():
            if value.shape[dim] == len(mask):
                value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return value.clone()


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the name and the result's shape of every operator that is run, as it is."""

    def __init__(self) -> None:
        """Nothing is run yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, tuple[int, ...] | None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operator."""
        result = func(*args, **(kwargs or {}))
        self.calls.append((plain_name(func), tuple(result.shape) if isinstance(result, Tensor) else None))
        return result


def _each(change: Callable[[Any], Any], tree: Any) -> Any:
    """``change`` of every argument of an operator, in lists too; what pytrees would take longer for."""
    if type(tree) in _NUMBERS:
        return tree
    if isinstance(tree, (tuple, list)):
        return type(tree)([_each(change, value) for value in tree])
    if isinstance(tree, dict):
        return {name: _each(change, value) for name, value in tree.items()}
    return change(tree)


_MADE = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}


def _narrow(made: Tensor) -> Tensor:
    """A constant that code makes of numbers, as the network at work has it.

    ``torch.tensor([0.1], dtype=x.dtype)`` is 0.1 to 16 digits where ``x`` is lifted, and to 8 in the recorded graph.
    """
    if not made.is_floating_point():
        return made
    narrow: Tensor = double(made.float())
    return narrow if torch.equal(narrow.isfinite(), made.isfinite()) else double(made)  # beyond single precision


def _as(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in ``dtype``."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
        return value.to(dtype)
    return value


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator that can draw random numbers does so in this call."""
    call = bound(func, args, kwargs)
    return all(call.get(switch) for switch in facts_of(plain_name(func)).draws_if)
