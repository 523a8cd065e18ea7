"""Pruned networks against the reference that drawn networks carry, and the outcome in words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from drawn.base import Kept
from drawn.network import Drawn
from secateur.core.errors import BudgetError, SecateurError, VerificationError

ORDER = ("WRONG", "crash", "unverified", "refused", "single", "nothing", "exact")
"""Outcomes, worst first."""

EXACT, SINGLE = 1e-9, 1e-5


class Reference:
    """The masked dense network, in double precision and (for what rounding alone does) in single.

    Args:
        drawn: The network.
        keep: The plan's kept indices.
    """

    def __init__(self, drawn: Drawn, keep: Mapping[str, Any]) -> None:
        self.model, self.plain = doubled(drawn.model), copy.deepcopy(drawn.model)
        self.kept, self.plain_kept = Kept(keep, self.model), Kept(keep, self.plain)

    def outputs(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        given = double(inputs)
        with torch.no_grad():
            return self.model.masked(given["x"], given.get("z"), self.kept)

    def rounded(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return self.plain.masked(inputs["x"], inputs.get("z"), self.plain_kept)


def double(tree: Any) -> Any:
    return pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, tree)


def doubled(model: nn.Module) -> Any:
    """A copy in double precision, complex tensors too."""
    twin = copy.deepcopy(model).double()
    return twin._apply(lambda t: t.to(torch.complex128) if t.is_complex() else t)


def _widen(graph: GraphModule) -> None:
    """Lets a traced graph compute in double precision: it checks types and names single where the code did not."""
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
            continue
        node.args = pytree.tree_map(lambda v: wide.get(v, v) if isinstance(v, torch.dtype) else v, node.args)
        node.kwargs = {k: wide.get(v, v) if isinstance(v, torch.dtype) else v for k, v in node.kwargs.items()}
    graph.recompile()


def outputs(model: nn.Module, inputs: dict[str, Tensor], how: str) -> list[Tensor]:
    """What a network gives; the graph back end wants inputs as they were given to the tracer."""
    with torch.no_grad():
        found = model(**inputs) if how == "named" else model(*inputs.values())
    return [t for t in pytree.tree_leaves(found) if isinstance(t, Tensor)]


def compared(drawn: Drawn, model: nn.Module, reference: Reference, **sizes: int) -> str:
    """The outcome for two inputs, by max |pruned − masked| / how far apart the inputs' masked outputs are.

    Where casts in the user's code end double precision, the network runs as it is, and ten times what rounding does to
    the reference is allowed.
    """
    pairs = [drawn.inputs(number, **sizes) for number in (1, 2)]
    want = [reference.outputs(x) for x in pairs]
    how = drawn.model.settings["call"]
    if not drawn.single:
        twin = doubled(model)
        if isinstance(twin, GraphModule):
            _widen(twin)
        error = gap([outputs(twin, double(x), how) for x in pairs], want)
        return "exact" if error <= EXACT else f"WRONG: off by {error:.1e}"
    error = gap([outputs(model, x, how) for x in pairs], want)
    noise = gap([reference.rounded(x) for x in pairs], want)
    return "single" if error <= 10 * noise + SINGLE else f"WRONG: off by {error:.1e}, rounding {noise:.1e}"


def gap(got: list[list[Tensor]], want: list[list[Tensor]]) -> float:
    """The largest difference, relative to what the input moves; ∞ where shapes or numbers of outputs differ.

    Outputs that the input does not move (a mean of what was normalised) are measured by their own size.
    """
    worst = 0.0
    for mine, true in zip(zip(*got, strict=True), zip(*want, strict=True), strict=True):
        if any(a.shape != b.shape for a, b in zip(mine, true, strict=True)):
            return float("inf")
        moved, size = float((true[0] - true[1]).abs().max()), float(true[0].abs().max())
        scale = (moved if moved > 1e-6 * size else size) or 1.0
        off = max(float((a - b).abs().nan_to_num(1e30, 1e30, 1e30).max()) for a, b in zip(mine, true, strict=True))
        worst = max(worst, off / scale)
    return worst


def outcome(check: Callable[[], str]) -> str:
    """The outcome of a check, in words."""
    try:
        return check()
    except VerificationError as error:
        return f"unverified: {_brief(error)}"
    except BudgetError as error:
        return "nothing" if "Nothing can be pruned" in str(error) else f"refused: {_brief(error)}"
    except SecateurError as error:
        return f"refused: {_brief(error)}"
    except Exception as error:
        return f"crash: {_brief(error)}"


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def worst(found: Iterable[str]) -> str:
    """The worst of several outcomes."""
    return min(found, key=lambda text: ORDER.index(kind_of(text)), default="nothing")


def kind_of(text: str) -> str:
    return text.partition(":")[0]
