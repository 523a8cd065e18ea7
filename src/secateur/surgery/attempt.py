"""Back ends in turn: the first whose result verifies is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.fx import GraphModule

from secateur.core.errors import SecateurError, VerificationError
from secateur.core.plan import Place, Scaled
from secateur.core.types import Verification
from secateur.surgery.pruned_graph import PrunedGraph

__all__ = ["BACKENDS", "Built", "Outcome", "Rung", "attempt", "proof_notes"]

BACKENDS = ("auto", "module", "graph")


@dataclass(frozen=True)
class Built:
    """A smaller network that is to be proven.

    Attributes:
        model: The network.
        numbers: What its attributes have now in the place of other numbers.
        scaled: Entries of its tensors that were multiplied.
        islands: Submodules that became graphs.
        notes: What was changed, in words.
        shortened: Elements that stay of lists of modules.
        unread: What attributes have now that no code reads.
        finish: What is left to do to the network when it is proven (names); raises where it is another one then.
    """

    model: nn.Module
    numbers: Mapping[Place, float] = field(default_factory=dict)
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)
    islands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shortened: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unread: Mapping[Place, float] = field(default_factory=dict)
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Rung:
    """A way to make the smaller network.

    Attributes:
        backend: ``module`` or ``graph``.
        build: Makes it; raises where that is impossible.
        keeps: What of the network only this way keeps; a note says that it is lost, and why, where another is taken.
    """

    backend: str
    build: Callable[[], Built]
    keeps: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a back end gave.

    Attributes:
        built: The pruned network.
        backend: ``module`` or ``graph``.
        verification: Its proof; ``None`` where that was switched off.
        notes: Why another back end was not taken.
        lost: What of the network the result does not keep.
    """

    built: Built
    backend: str
    verification: Verification | None
    notes: tuple[str, ...]
    lost: tuple[str, ...] = ()


def attempt(
    model: nn.Module, backend: str, rungs: Sequence[Rung], prove: Callable[[Built, str], Verification | None]
) -> Outcome:
    """Tries one way after the other to make the smaller network, as ``backend`` (or ``auto``) says.

    Args:
        model: The dense network.
        backend: One of :data:`BACKENDS`.
        rungs: The ways, the best first.
        prove: Compares what was made with the masked dense network; gets the name of the back end too.

    Raises:
        VerificationError: No back end gives the right network.
        SecateurError: What the last one raised.
    """
    # A traced graph has no code of the user's to keep, and its artifact has to be replayed as a graph.
    wanted = "graph" if backend == "auto" and _is_flat(model) else backend
    tried = [rung for rung in rungs if wanted in ("auto", rung.backend)]
    reasons: list[Exception] = []
    lost: dict[str, str] = {}
    for rung in tried:
        try:
            built, proof = _tried(rung, prove)
        except Exception as error:
            reasons.append(error)
            if rung is not tried[-1]:
                _without_frames(error)
            if rung.keeps:
                lost[rung.keeps] = f"its {rung.keeps} does not describe the result: {_brief(error)}"
            if rung is tried[-1]:
                raise _worded(error if rung.backend == "graph" else _telling(reasons), rung.backend) from error
            continue
        notes = [*lost.values(), *built.notes]
        if rung.backend == "graph" and reasons:
            why = _brief(_telling(reasons))
            notes.insert(0, f"graph back end, because the module's own code does not fit: {why}")
        gone = ("class", *lost) if rung.backend == "graph" and not _is_flat(model) else tuple(lost)
        return Outcome(built, rung.backend, proof, tuple(notes), gone)
    raise AssertionError("unreachable")


def _is_flat(model: nn.Module) -> bool:
    """Whether a network is a graph of ours, or one of operators alone; others that call modules have these to keep."""
    if not isinstance(model, GraphModule) or isinstance(model, PrunedGraph):
        return isinstance(model, PrunedGraph)
    called = [model.get_submodule(str(n.target)) for n in model.graph.nodes if n.op == "call_module"]
    return not any(True for module in called for _ in (*module.parameters(), *module.buffers()))


def _tried(
    rung: Rung, prove: Callable[[Built, str], Verification | None]
) -> tuple[Built, Verification | None]:  # fmt: skip
    """One way; a network that fails is gone before the next one is made."""
    built = rung.build()
    proof = prove(built, rung.backend)
    built.finish()
    return built, proof


def _without_frames(error: BaseException | None) -> None:
    """Lets go of the frames behind an error that is kept for its words: they hold networks."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _telling(reasons: Sequence[Exception]) -> Exception:
    """Of the reasons why a module does not fit, the one that says most: what its sizes cannot be, if that is known."""
    return next((r for r in reversed(reasons) if isinstance(r, SecateurError)), reasons[-1])


def proof_notes(proof: Verification | None) -> tuple[str, ...]:
    """What the user has to be told about a proof that proves nothing."""
    if proof is None or proof.proven:
        return ()
    return (
        f"NOT PROVEN: no input that was tried moves {', '.join(proof.unproven)}, with sharpened weights either, so a "
        "mistake could not be seen there. Give example inputs that the network reacts to",
    )


def _worded(error: Exception, backend: str) -> Exception:
    hint = "Take backend='auto' or 'graph'." if backend == "module" else "Please report the network."
    if isinstance(error, VerificationError):
        return VerificationError(f"{error} Nothing was returned. {hint}")
    if isinstance(error, SecateurError):
        return error
    return VerificationError(f"The {backend} back end gave a network that does not run: {_brief(error)}. {hint}")


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    if isinstance(error, SecateurError):
        return text[0][:200].rstrip(".")
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
