"""The result of a cut."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.hints import HoldsNetwork
from secateur.core.plan import Plan, remember, remembered
from secateur.core.shapes import described, like
from secateur.core.types import Counts, ExampleInputs, Unsupported, Verification
from secateur.core.weights_print import weights_print
from secateur.graph.groups import Group
from secateur.models.onnx_file import OnnxNetwork
from secateur.models.random_weights import RANDOM, has_random_weights
from secateur.task.metadata import ModelMetadata

__all__ = ["WEIGHTS_PRINT", "Cut", "Pruned", "descended", "opened", "untrained"]


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
class Pruned(HoldsNetwork):
    """A pruned network with its plan and its proof; it can be called like the network.

    Every function of Secateur that takes a network takes this as well.

    Attributes:
        model: The smaller network.
        backend: ``module`` (the same classes) or ``graph`` (a flat graph with the same parameter names).
        verification: How far it is from the masked dense network; ``None`` where that was switched off.
        before: Counts of the network that was handed in.
        after: Counts of the pruned network.
        groups: The groups, each with the units that stay.
        unsupported: What was pinned for want of a rule.
        notes: What the user should know (why the graph back end was taken …).
        example_inputs: What the network was traced with. Copies and files keep shapes and types alone.
        dense: The network before its first cut, where that is known; copies and files drop it.
        source: The network that this cut was made on, where that is known; copies and files drop it.
        lost: What of the network the result does not have: its ``class`` (it is a graph), its ``configuration`` (the
            library's own save and load would not give it back).
    """

    model: nn.Module
    backend: str
    verification: Verification | None
    before: Counts
    after: Counts
    groups: tuple[Cut, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    notes: tuple[str, ...] = ()
    example_inputs: ExampleInputs | None = None
    dense: nn.Module | None = field(default=None, repr=False, compare=False)
    lost: tuple[str, ...] = ()
    source: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """Kept indices per parameter and dimension, relative to the network before its first cut."""
        return remembered(self.model) or Plan({}, {})

    @property
    def inputs(self) -> ExampleInputs:
        """What the network is called with.

        Raises:
            InputError: It is not known (of a network that was only made sparse, without example inputs).
        """
        return opened(self, None)[2]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the network."""
        return self.model(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: neither the dense network nor a value of the user's data."""
        inputs = like(described(self.example_inputs))
        return {**self.__dict__, "dense": None, "source": None, "example_inputs": inputs}

    @arguments.checked
    def carry(self, *things: Any) -> Any:
        """What a training loop holds beside the network, for the pruned network: training goes on where it was.

        Of optimizers the settings and the state of every entry that stays (momentum, running means) are taken over,
        and gradients too; of schedulers the place in their schedule. Where a weight was multiplied to make up for a
        factor (``plan.scaled``), its momentum is divided by it.

        Args:
            things: Optimizers (any with state tensors of their parameters' shapes), schedulers (with the optimizer
                that they step), and copies of the network with other values (an average over steps). They belong to
                the network that was cut, or to the one before its first cut, and stay as they are.

        Returns:
            New ones of the same classes; several as a tuple.

        Raises:
            InputError: One belongs to another network, or the network that was cut is not known any more.

        >>> import torch, secateur
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> pruned = secateur.prune(net, torch.randn(1, 4), ratio=0.5)
        >>> [tuple(p.shape) for p in pruned.carry(optimizer).param_groups[0]["params"]]
        [(4, 4), (4,), (2, 4), (2,)]
        """
        from secateur.cut.carrying import carried

        last = self.plan.parts[-1] if self.plan.parts else self.plan
        sources = [(self.source, last)] if self.source is not None else []
        sources += [(self.dense, self.plan)] if self.dense is not None else []
        if not sources:
            raise InputError("The network that was cut is not known any more (copies and files drop it), so nothing "
                             "can be carried over. Call carry on what prune returned.")  # fmt: skip
        known: dict[int, Any] = {}
        found = tuple(carried(thing, self.model, sources, known) for thing in things)
        return found[0] if len(found) == 1 else found

    def explain(self, name: str) -> Any:
        """What the channels that are left of a layer go with, through which operators, or why they stay.

        Args:
            name: A module, a parameter, or a pattern.

        Returns:
            An explanation that prints as a table; see :meth:`Analysis.explain`.

        Raises:
            UnknownNameError: Nothing is called so.
        """
        from secateur.cut.analysis import analyse
        from secateur.cut.part_calls import as_inputs, inputs_of

        path = next((p for p in self.plan.alone if name == p or name.startswith(f"{p}.")), None)
        if path is None:
            return analyse(self.model, self.inputs).explain(name)
        part, call = self.model.get_submodule(path), inputs_of(self.model, self.inputs, [path])[path][0]
        return analyse(part, as_inputs(part, path, call)).explain(name.removeprefix(path).lstrip(".") or "*")

    @arguments.checked
    def save(
        self, folder: str | Path, *, graph: bool | None = None, metadata: ModelMetadata | None = None,
        header: bool = True,
    ) -> Path:  # fmt: skip
        """Writes ``model.safetensors`` and ``plan.json`` (and the self-contained ``graph.json``).

        Nothing of the example inputs but their shapes and types is written.

        Args:
            folder: Made if it is not there; an artifact that lies in it is replaced, weights of anything else are not.
            graph: Whether to write ``graph.json`` too, from which the network is loaded without your code; by
                default for the graph back end, if such a file can hold the network (a warning says if it cannot).
            metadata: What whoever runs it has to know (classes, how images are prepared):
                ``secateur.task.ModelMetadata.of(data)``. It goes into ``plan.json``.
            header: Whether ``__metadata__`` of ``model.safetensors`` has it too, for weights that travel alone. Its
                bytes come on top of those that a target for the size counts.

        Returns:
            The folder.

        Raises:
            ExportError: ``graph=True``, and the network has an operator or an output that such a file cannot hold.
            InputError: The folder cannot be written, or holds weights that belong to no artifact.
        """
        from secateur.cut.artifact.folder import save, save_what_fits

        if graph is not None or self.backend != "graph":
            return save(self, Path(folder), graph=bool(graph), metadata=metadata, header=header)
        reader = "load(folder, model=YourNetwork())"
        save_what_fits(self, Path(folder), reader, 3, metadata=metadata, header=header)
        return Path(folder)

    @arguments.checked
    def save_pretrained(
        self, folder: str | Path, *, graph: bool | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes what :meth:`save` writes, with the graph if it can hold the network, and a model card: ``README.md``.

        Args:
            folder: Made if it is not there; an artifact that lies in it is replaced, a card of your own is not.
            graph: Whether to write the graph; by default if such a file can hold the network (a warning says if not).
            metadata: Entries for the head of the card, as the Hugging Face Hub has them: ``license``, ``base_model`` …

        Returns:
            The folder, for :func:`secateur.from_pretrained`.

        Raises:
            ExportError: ``graph=True``, and the network has an operator or an output that such a file cannot hold.
            InputError: The folder cannot be written.
        """
        from secateur.cut.artifact import save_pretrained

        return save_pretrained(self, Path(folder), graph=graph, metadata=metadata)

    @arguments.checked
    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        message: str | None = None,
        graph: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes to a repository of the Hugging Face Hub.

        Args:
            repository: ``owner/name``; made if it is not there.
            private: Whether a new one is private; by default as its owner's settings say.
            token: Of the Hub; by default the one that is logged in.
            message: Of the commit.
            graph: As for :meth:`save_pretrained`.
            metadata: As for :meth:`save_pretrained`.

        Returns:
            The repository's address.

        Raises:
            InputError: huggingface_hub is not installed, nobody is logged in, or the name or the right is wrong.
            DataError: The Hub cannot be reached.
        """
        from secateur.cut.artifact import push_to_hub

        return push_to_hub(self, repository, private=private, token=token, message=message, graph=graph,
                           metadata=metadata)  # fmt: skip

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
        lines += [f"  pinned: {u}" for u in self.unsupported]
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


def opened(
    given: nn.Module | Pruned, inputs: ExampleInputs | None
) -> tuple[nn.Module, nn.Module | None, ExampleInputs]:
    """What a verb works on: the network, the dense one behind it, and what it is called with.

    Args:
        given: A network, or the result of an earlier cut.
        inputs: What it is called with; may be left out where ``given`` knows it.

    Returns:
        The network; the one before its first cut, ``None`` where it was cut and that is not known; the inputs.

    Raises:
        InputError: A network without example inputs.
    """
    if isinstance(given, Pruned):
        network, dense, known = given.model, given.dense, given.example_inputs
    else:
        network, dense = given, None if remembered(given) else given
        known = given.example_inputs if isinstance(given, OnnxNetwork) else None
    inputs = known if inputs is None else inputs
    if inputs is None:
        raise InputError("example_inputs is missing: hand over what the network is called with, a batch for instance.")
    return network, dense, inputs


def descended(pruned: Pruned, first: nn.Module | None) -> Pruned:
    """The result of a cut that was made on a changed copy of the network ``first``, as one of ``first`` itself.

    Args:
        pruned: What was cut from the copy.
        first: The network before its first cut; ``None`` where that is not known.
    """
    if first is None:
        return replace(pruned, dense=None)
    plan = pruned.plan
    head, *tail = plan.parts or (plan,)
    head = replace(head, provenance={**head.provenance, WEIGHTS_PRINT: weights_print(first)})
    remember(pruned.model, replace(plan, parts=(head, *tail)) if plan.parts else head)
    return replace(pruned, dense=first)


WEIGHTS_PRINT = "dense_weights"
"""Entry of a plan's provenance: :func:`~secateur.core.weights_print.weights_print` of the network that was cut."""


def untrained(pruned: Pruned, network: nn.Module) -> Pruned:
    """The result of a cut of ``network``, with a note where this has the random weights that it was made with."""
    return replace(pruned, notes=(*pruned.notes, RANDOM)) if has_random_weights(network) else pruned


def _share(after: int, before: int) -> str:
    return f"{after / before:.1%}" if before else "–"
