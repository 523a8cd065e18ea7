"""Back ends in turn: the first whose result verifies is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule

from secateur.core.errors import SecateurError, VerificationError
from secateur.core.types import Verification

__all__ = ["BACKENDS", "Outcome", "attempt", "proof_notes"]

BACKENDS = ("auto", "module", "graph")


@dataclass(frozen=True)
class Outcome:
    """What a back end gave.

    Attributes:
        model: The pruned network.
        backend: ``module`` or ``graph``.
        verification: Its proof; ``None`` where that was switched off.
        notes: Why another back end was not taken.
    """

    model: nn.Module
    backend: str
    verification: Verification | None
    notes: tuple[str, ...]


def attempt(model: nn.Module, backend: str, operate: Callable[[str], tuple[nn.Module, Verification | None]]) -> Outcome:
    """Calls ``operate`` with the name of one back end after the other, as ``backend`` (or ``auto``) says.

    Raises:
        VerificationError: No back end gives the right network.
        SecateurError: What the last one raised.
    """
    notes: list[str] = []
    # A traced graph has no code of the user's to keep, and its artifact has to be replayed as a graph.
    auto = ("graph",) if isinstance(model, GraphModule) else ("module", "graph")
    for name in auto if backend == "auto" else (backend,):
        try:
            pruned, proof = operate(name)
        except Exception as error:
            if name != "module" or backend == "module":
                raise _worded(error, name) from error
            notes.append(f"graph back end, because the module's own code does not fit: {_brief(error)}")
            continue
        return Outcome(pruned, name, proof, tuple(notes))
    raise AssertionError("unreachable")


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
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
