"""Cuts of networks that are sharded over processes: every process cuts the whole network, all of them alike."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec

from torch import nn

from secateur.core.errors import InputError
from secateur.core.plan import Plan, dense_name
from secateur.cut.pruned import Pruned
from secateur.cut.selection import names_in
from secateur.graph.copies import unwrapped
from secateur.graph.unsharded import Shards, agreed, gathered, groups_of, is_sharded, shard_again, shards_of

__all__ = ["over_processes"]

P = ParamSpec("P")


def over_processes(cut: Callable[P, Pruned]) -> Callable[P, Pruned]:
    """Makes a cut take networks that are sharded over processes; others go through as they are.

    Every process calls it with the same arguments. Each gathers the whole network, cuts it, and the results are
    compared before they are sharded again in the same places (after the older wrapper they stay whole).

    Args:
        cut: Its first argument is the network, or the result of an earlier cut.

    Raises:
        InputError: From its calls: processes came to different cuts, or one of them failed.
    """

    @functools.wraps(cut)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Pruned:
        given: Any = args[0] if args else kwargs.get("model")
        network = given.model if isinstance(given, Pruned) else given
        if not isinstance(network, nn.Module) or not is_sharded(network):
            return cut(*args, **kwargs)
        named: dict[str, Any] = dict(kwargs)
        for name in ("only", "ignore", "part"):  # a copy holds other modules
            if named.get(name) is not None:
                named[name] = names_in(network, named[name], name)
        plain = gathered(network)
        taken: Any = replace(given, model=plain) if isinstance(given, Pruned) else plain
        if args:
            return _alike(lambda: cut(taken, *args[1:], **named), network, given)  # type: ignore[arg-type]
        return _alike(lambda: cut(**{**named, "model": taken}), network, given)  # type: ignore[call-arg]

    return wrapper


def _alike(cut: Callable[[], Pruned], network: nn.Module, given: Any) -> Pruned:
    """A cut that came out the same in all processes, sharded again."""
    shards, pruned, error = shards_of(network), None, None
    try:
        pruned = cut()
    except Exception as caught:  # the others wait to hear of it
        error = caught
    word = _digest(pruned) if pruned is not None else f"failed: {type(error).__name__}"
    said = agreed(groups_of(network), word)
    if error is not None:
        raise error
    if len(said) > 1:
        failed = next((one for one in said if one.startswith("failed")), None)
        raise InputError(
            f"The processes came to {len(said)} different cuts{f' (one {failed})' if failed else ''}: call it in all "
            "of them with the same arguments, with the same data and example_inputs too (not each with its own share)."
        )
    assert pruned is not None
    return _sharded(pruned, network, given, shards)


def _digest(pruned: Pruned) -> str:
    """What is the same where the same entries of the same network stay."""
    plan = pruned.plan
    kept = repr((sorted(plan.keep.items()), sorted(plan.shortened.items()), plan.removed, pruned.backend))
    return hashlib.sha256(kept.encode()).hexdigest()


def _sharded(pruned: Pruned, network: nn.Module, given: Any, shards: list[Shards]) -> Pruned:
    """The result as a network that is sharded in the same places, and that knows where it comes from."""
    plan: Plan = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
    if not shards:
        note = ("FullyShardedDataParallel was not put around the result again: that is a plain network, whole in every "
                "process. Wrap it as before, and make a new optimizer")  # fmt: skip
        return replace(pruned, source=None, dense=None, notes=(*pruned.notes, note))
    notes, dead = [], set(plan.islands)
    if pruned.backend == "graph" and shards:
        shards, dead = [replace(shards[-1], paths=("",), dims={}, whole=frozenset())], {""}
        notes = ["the graph is sharded as a whole, with the settings of the outermost module"]
    notes += shard_again(pruned.model, shards, lambda name: dense_name(name, plan.shortened), dead)
    bare = unwrapped(network)
    first = given.dense if isinstance(given, Pruned) else bare
    dense = first if pruned.dense is not None else None
    return replace(pruned, source=bare, dense=dense, notes=(*pruned.notes, *notes))
