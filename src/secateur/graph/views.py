"""Every way through a network that a cut has to fit: its forward, in train mode too, and further methods."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.errors import InputError, SecateurError, UnknownNameError, first_line
from secateur.core.types import ExampleInputs
from secateur.graph.batch import Unfollowed
from secateur.graph.calling import preserved_rng
from secateur.graph.copies import copy_network, plain_network
from secateur.graph.flow import Flow, flow
from secateur.graph.reads import live, unused_parameters
from secateur.graph.trace import recorded, trace
from secateur.graph.traced import Traced

__all__ = ["Also", "follows_mode", "labelled"]

Also = Mapping[str, ExampleInputs]
"""Further methods of the network and what they are called with."""


def labelled(model: nn.Module, inputs: ExampleInputs, also: Also | None = None) -> tuple[Flow, tuple[str, ...]]:
    """Traces every way through ``model`` and runs them on labels.

    Train mode is traced as well where it uses other parameters or gives other outputs than eval mode does (auxiliary
    heads); dropout alone makes no difference to what must be cut together.

    Args:
        model: Any network; it is not touched.
        inputs: What its forward is called with.
        also: Further methods by name, each with what it is called with.

    Returns:
        The labelled network, and what the user should know: what is not used and stays whole.

    Raises:
        UnknownNameError: A method that is not there.
        InputError: A method does not run on its inputs.
        TraceError: The network, or a method of it, cannot be traced.
    """
    model = plain_network(model)
    main = trace(model, inputs)
    notes = list(main.notes)
    further = [_method(model, name, given) for name, given in (also or {}).items()]
    try:
        further += _in_training(model, main)
    except (SecateurError, RuntimeError) as error:
        notes.append(f"train mode could not be traced, so the cut fits eval mode alone: {first_line(error)}")
    result = flow(main, further)
    unused = unused_parameters(result)
    if unused:
        notes.append(_unused_words(unused))
    return result, tuple(notes)


def _method(model: nn.Module, name: str, inputs: ExampleInputs) -> Traced:
    if not callable(getattr(model, name, None)) or name == "forward":
        methods = [n for n in dir(type(model)) if not n.startswith("_") and n not in dir(nn.Module)]
        raise UnknownNameError("method", name, methods, "also= names further methods of the network.")
    try:
        return trace(model, inputs, method=name)
    except InputError as error:
        raise InputError(f"also={{{name!r}: …}}: {error}") from error


def _unused_words(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"not used by forward, so kept whole: {shown}. If another method uses them, name it, "
        "also={'method': inputs}, and they follow the cut"
    )


def _tree(traced: Traced) -> Any:
    """Inputs as one argument of :func:`trace`."""
    if traced.args and traced.kwargs:
        raise InputError("train mode is traced with positional or keyword inputs, not both")
    return dict(traced.kwargs) if traced.kwargs else traced.args


# ---------------------------------------------------------------------------------------------------- differences


def _uses_of(traced: Traced) -> tuple[Any, ...]:
    """Parameters by the operator that takes them, in order, and how many outputs there are."""
    parameters = {n for n, _ in traced.module.named_parameters(remove_duplicate=False)}
    used = []
    for node in live(traced):
        names = tuple(str(n.target) for n in node.all_input_nodes if n.op == "get_attr" and n.target in parameters)
        if names and node.op == "call_function":
            used.append((str(node.target), names))
    outputs = next(n for n in traced.nodes if n.op == "output")
    return (*used, len(outputs.all_input_nodes))


def _in_training(model: nn.Module, main: Traced) -> list[Traced]:
    """The network in train mode, where it uses other parameters or gives other outputs there."""
    if not any(_asks_for_mode(cast(Any, type(m))) and any(True for _ in m.parameters()) for m in model.modules()):
        return []
    try:
        if not main.recorded:
            raise Unfollowed("it was not recorded in eval mode either")
        train = recorded(model, _tree(main), training=True)
    except Unfollowed:
        if not _differs_in_training(model, main):
            return []
        train = trace(model, _tree(main), training=True)
    return [train] if _uses_of(train) != _uses_of(main) else []


def _differs_in_training(model: nn.Module, traced: Traced) -> bool:
    """Whether train mode may use other parameters: a quick look without tracing; in doubt, yes."""
    try:
        with preserved_rng():
            return _called(model, traced, training=True) != _called(model, traced, training=False)
    except Exception:
        return True


def follows_mode(model: nn.Module) -> bool:
    """Whether a network may do more in train mode than that PyTorch's batch norms, dropouts and the like follow it."""
    several = (nn.MultiheadAttention, nn.RNNBase)  # they draw inside of an operator
    return any(isinstance(m, several) or _asks_for_mode(cast(Any, type(m))) for m in model.modules())


@cache
def _asks_for_mode(kind: Any) -> bool:
    """Whether a class that is not PyTorch's own reads ``training`` anywhere in its code."""
    own = [c for c in kind.__mro__ if c.__module__.partition(".")[0] != "torch" and issubclass(c, nn.Module)]
    functions = [f for c in own for f in vars(c).values() if isinstance(f, types.FunctionType)]
    return any(_mentions(f.__code__) for f in functions)


def _mentions(code: types.CodeType) -> bool:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return "training" in code.co_names or any(map(_mentions, inner))


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parameters every operator takes."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.seen = names, list[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs or {}))
        used = tuple(self.names[id(t)] for t in leaves if isinstance(t, Tensor) and id(t) in self.names)
        if used:
            self.seen.append((str(func), used))
        return func(*args, **(kwargs or {}))


def _called(model: nn.Module, traced: Traced, *, training: bool) -> tuple[Any, ...]:
    """What :func:`_uses_of` says of a trace, from one run on tensors without values."""
    named = dict(model.named_parameters(remove_duplicate=False))
    held = {id(t): t.detach().to("meta") for t in (*named.values(), *model.buffers())}
    twin = copy_network(model, held, lambda t: t.detach().to("meta")).train(training)
    args, kwargs = pytree.tree_map(
        lambda v: v.detach().to("meta") if isinstance(v, Tensor) else v, (traced.args, traced.kwargs)
    )
    uses = _Uses({id(held[id(t)]): name for name, t in named.items()})
    with torch.inference_mode(), uses:
        outputs = twin(*args, **kwargs)
    return (*uses.seen, len([t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]))
