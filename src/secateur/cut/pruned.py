"""The result of a cut."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from secateur.core import arguments
from secateur.core.errors import ExportError
from secateur.core.plan import Plan
from secateur.core.types import Counts, ExampleInputs, Unsupported, Verification
from secateur.graph.groups import Group

__all__ = ["Pruned"]


@dataclass(frozen=True)
class Cut:
    """How one group came out.

    Attributes:
        group: The group.
        kept: Units that stay.
    """

    group: Group
    kept: int


@dataclass(frozen=True)
class Pruned:
    """A pruned network with its plan and its proof.

    Attributes:
        model: The smaller network.
        plan: Kept indices per parameter and dimension, relative to the network first loaded.
        backend: ``module`` (the same classes) or ``graph`` (a flat graph with the same parameter names).
        verification: How far it is from the masked dense network; ``None`` where that was switched off.
        before: Counts of the network that was handed in.
        after: Counts of the pruned network.
        groups: The groups, each with the units that stay.
        unsupported: What was pinned for want of a rule.
        notes: What the user should know (why the graph back end was taken …).
        example_inputs: What the network was traced with.
    """

    model: nn.Module
    plan: Plan
    backend: str
    verification: Verification | None
    before: Counts
    after: Counts
    groups: tuple[Cut, ...]
    unsupported: tuple[Unsupported, ...]
    notes: tuple[str, ...]
    example_inputs: ExampleInputs

    @arguments.checked
    def save(self, folder: str | Path, *, graph: bool | None = None) -> Path:
        """Writes ``model.safetensors`` and ``plan.json`` (and the self-contained ``graph.json``).

        Nothing of the example inputs but their shapes and types is written.

        Args:
            folder: Made if it is not there; an artifact that lies in it is replaced.
            graph: Whether to write ``graph.json`` too, from which the network is loaded without your code; by
                default for the graph back end, if such a file can hold the network (a warning says if it cannot).

        Returns:
            The folder.

        Raises:
            ExportError: ``graph=True``, and the network has an operator or an output that such a file cannot hold.
            InputError: The folder cannot be written.
        """
        from secateur.cut.artifact import save

        if graph is not None or self.backend != "graph":
            return save(self, Path(folder), graph=bool(graph))
        try:
            return save(self, Path(folder), graph=True)
        except ExportError as error:
            warnings.warn(
                f"Saved without its graph, so load(folder, model=YourNetwork()) needs your code: {error}", stacklevel=2
            )
            return save(self, Path(folder), graph=False)

    @property
    def headline(self) -> str:
        """One sentence: sizes before and after, back end, verified difference."""
        b, a = self.before, self.after
        proof = "not verified"
        if self.verification is not None:
            error = f"verified to {self.verification.max_relative_error:.1e}"
            proof = error if self.verification.proven else "NOT PROVEN (nothing moves its output)"
        return (
            f"{b.params:,} → {a.params:,} parameters ({_share(a.params, b.params)}), "
            f"{b.macs:,} → {a.macs:,} MACs ({_share(a.macs, b.macs)}), {self.backend} back end, {proof}"
        )

    def __repr__(self) -> str:
        """The headline, the notes and what was pinned."""
        lines = [f"Pruned({self.headline})", *(f"  note: {n}" for n in self.notes)]
        lines += [f"  pinned: {u.operator} in {u.module or '(top level)'}: {u.reason}" for u in self.unsupported]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table of the groups for notebooks."""
        rows = "".join(
            f"<tr><td>{html.escape(c.group.name)}</td><td>{len(c.group):,}</td><td>{c.kept:,}</td>"
            f"<td>{1 - c.kept / len(c.group):.0%}</td><td>{html.escape(', '.join(c.group.producers[1:4]))}</td></tr>"
            for c in self.groups
        )
        return (
            f"<p><b>{html.escape(self.headline)}</b></p><table><thead><tr><th>group</th><th>units</th>"
            f"<th>kept</th><th>removed</th><th>cut together with</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def _share(after: int, before: int) -> str:
    return f"{after / before:.1%}" if before else "–"
