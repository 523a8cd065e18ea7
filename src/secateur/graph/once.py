"""What a network does in train mode that a graph of one run would not do in every step: it is looked for as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.graph.writer import Writer

__all__ = ["BY_CHANCE", "Once"]

BY_CHANCE = "its Python draws numbers, or decides by chance, which a graph would do once"
_OWN = "its code has gradients of its own (autograd.Function), which a graph would not have"
_WITHOUT = "its code switches gradients off on the way (torch.no_grad), which a graph would not"
_PLAIN = (bool, int, float, str)


class Once:
    """Watches one run of a copied network."""

    def __init__(self, twin: nn.Module, writer: Writer) -> None:
        """``writer`` writes down what is run; what the network holds is remembered."""
        self._twin, self._writer = twin, writer
        self._before = dict(_held(twin))
        self._spans: list[list[Node]] = []  # the last operators before gradients went off, and before they came back
        self._depth, self._own = 0, False

    @contextmanager
    def watched(self, wanted: bool) -> Iterator[None]:
        """Sees contexts without gradients, and functions with gradients of their own, while the network runs."""
        function: Any = torch.autograd.Function
        made = [(kind, name, vars(kind).get(name)) for kind, names in _CONTEXTS for name in names] if wanted else []
        made += [(function, "apply", vars(function).get("apply"))] if wanted else []
        try:
            for kind, name, _ in made:
                setattr(kind, name, self._instead(kind, name))
            yield
        finally:
            for kind, name, before in made:
                delattr(kind, name) if before is None else setattr(kind, name, before)

    def _instead(self, kind: Any, name: str) -> Any:
        original = getattr(kind, name)
        if name == "apply":

            def apply(called: Any, *args: Any, **kwargs: Any) -> Any:
                self._own = True
                return original.__func__(called, *args, **kwargs)

            return classmethod(apply)

        def passed(context: Any, *args: Any) -> Any:
            if not getattr(context, "mode", False):
                self._switched(1 if name == "__enter__" else -1)
            return original(context, *args)

        return passed

    def _switched(self, by: int) -> None:
        self._depth += by
        last: Node = next(iter(reversed(self._writer.graph.nodes)))
        if by > 0 and self._depth == 1:
            self._spans.append([last])
        elif by < 0 and self._depth == 0:
            self._spans[-1].append(last)

    def reason(self) -> str:
        """What was seen, in words that follow "in train mode"; empty for nothing."""
        before = self._before
        changed = [name for name, value in _held(self._twin) if name in before and _other(value, before[name])]
        if changed:
            return f"its code changes what it holds as it runs ({changed[0]}), which a graph would not"
        return _OWN if self._own else _WITHOUT if self._cuts_gradients() else ""

    def _cuts_gradients(self) -> bool:
        """Whether operators of what is trained were called while gradients were off."""
        if not self._spans:
            return False
        trained = {n for n, p in self._twin.named_parameters(remove_duplicate=False) if p.requires_grad}
        starts, ends = {span[0] for span in self._spans}, {span[1] for span in self._spans if len(span) > 1}
        follows, within = set[Node](), False
        for node in self._writer.graph.nodes:
            if (
                str(node.target) in trained
                if node.op == "get_attr"
                else any(n in follows for n in node.all_input_nodes)
            ):
                follows.add(node)
                if within and node.op == "call_function":
                    return True
            within = (within and node not in ends) or node in starts
        return False


_CONTEXTS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (torch.no_grad, ("__enter__", "__exit__")),
    (torch.set_grad_enabled, ("__enter__", "__exit__")),
)


def _held(twin: nn.Module) -> Iterator[tuple[str, Any]]:
    """Plain numbers and tensors that modules hold, by name."""
    for path, module in twin.named_modules():
        own = not type(module).__module__.startswith("torch.nn.")  # a weight that PyTorch computes anew in every step
        for table in (vars(module), module._buffers) if own else (module._buffers,):
            for name, value in table.items():
                if name != "training" and (isinstance(value, Tensor) or type(value) in _PLAIN):
                    yield f"{path}.{name}".lstrip("."), value


def _other(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(before, Tensor):
        return value is not before
    return type(value) is not type(before) or value != before
