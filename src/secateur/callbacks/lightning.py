"""A callback of Lightning that prunes between epochs; checkpoints are gone on with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.callbacks.loop import cut_again, cut_in_place, rehearse
from secateur.callbacks.schedule import checked_schedule
from secateur.core.errors import InputError
from secateur.core.plan import Plan
from secateur.core.types import ExampleInputs
from secateur.cut.pruned import Pruned
from secateur.models import import_torchvision
from secateur.runtimes.packages import need

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    with contextlib.suppress(InputError):
        import_torchvision()  # the library does, and stumbles over one without its operators
    try:
        from lightning.pytorch import Callback
    except ImportError:  # said when one is made
        Callback = object

__all__ = ["PruneCallback"]

_ASIDE = ("_trainer", "_fabric", "_fabric_optimizers", "on_load_checkpoint")
"""What Lightning and this callback hang on a LightningModule, which is no part of the network."""


class PruneCallback(Callback):
    """Prunes after epochs of ``trainer.fit``, and carries the optimizers over.

    The network stays the object that it is, so schedulers, metrics and what else refers to it go on. A checkpoint holds
    the plan: ``trainer.fit(fresh, ckpt_path=…)`` with a callback made alike cuts the fresh network the same way before
    the weights are loaded.

    Args:
        at: The arguments of :func:`secateur.prune` by the epoch after which they are used, counted from 1:
            ``{2: {"macs": 0.7}, 4: {"macs": 0.5, "of": "dense"}}``, or what :func:`secateur.callbacks.gradually` gives.
        network: Name of the network in the LightningModule, ``net`` for ``self.net``; the module itself by default.
        example_inputs: What the network is called with; by default the module's ``example_input_array``.
        options: Arguments of :func:`secateur.prune` for all cuts.

    Attributes:
        pruned: The last cut, with the network as its model; ``None`` before the first.

    Raises:
        InputError: Lightning is not installed, or the schedule is none. Later: there is no such network, its inputs are
            not known, the training runs in several processes, or a cut would fail.
    """

    def __init__(
        self,
        at: Mapping[int, Mapping[str, Any]],
        *,
        network: str = "",
        example_inputs: ExampleInputs | None = None,
        **options: Any,
    ) -> None:
        """See the class."""
        need(("lightning",), "lightning", "The callback for Lightning")
        self.at = checked_schedule(at, options)
        self.network, self.example_inputs = network, example_inputs
        self.pruned: Pruned | None = None
        self._done: list[int] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks what can be checked, and waits for a checkpoint to be loaded."""
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise InputError(
                f"Pruning between epochs runs in one process; this training runs in {trainer.world_size}. Prune before "
                "it, or train with devices=1."
            )
        self._found(pl_module)
        self._inputs(pl_module)
        before = pl_module.on_load_checkpoint

        def load(checkpoint: dict[str, Any]) -> None:
            pl_module.__dict__.pop("on_load_checkpoint", None)
            self._cut_as(pl_module, checkpoint)
            before(checkpoint)

        # Callbacks are asked after the weights were loaded; the module is asked before.
        pl_module.__dict__["on_load_checkpoint"] = load

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing was loaded, or it is over."""
        pl_module.__dict__.pop("on_load_checkpoint", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tries the cuts that are to come, and makes up for those that a checkpoint was written just before."""
        cuts = {epoch: options for epoch, options in self.at.items() if epoch not in self._done}
        rehearse(self._found(pl_module), self._inputs(pl_module), cuts, aside=_ASIDE)
        for epoch in cuts:
            if epoch <= trainer.current_epoch:
                self._cut(trainer, pl_module, epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts, if this is the epoch."""
        if trainer.current_epoch + 1 in self.at:
            self._cut(trainer, pl_module, trainer.current_epoch + 1)

    def _cut(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        network, inputs = self._found(pl_module), self._inputs(pl_module)
        self.pruned = cut_in_place(network, inputs, trainer.optimizers, aside=_ASIDE, **self.at[epoch])
        self._done.append(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the plan of all cuts, as text, and after which epochs they were made."""
        return {} if self.pruned is None else {"plan": self.pruned.plan.to_json(), "done": list(self._done)}

    @property
    def state_key(self) -> str:
        """What its state is called in a checkpoint: one callback for one network."""
        return f"{type(self).__qualname__}{{network={self.network!r}}}"

    def _cut_as(self, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        if "plan" in state:
            network, inputs = self._found(pl_module), self._inputs(pl_module)
            self.pruned = cut_again(network, inputs, Plan.from_json(state["plan"]), aside=_ASIDE)
            self._done = [epoch for epoch in state.get("done", ()) if type(epoch) is int]

    def _found(self, pl_module: LightningModule) -> nn.Module:
        try:
            found: nn.Module = pl_module.get_submodule(self.network)
        except AttributeError as error:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise InputError(
                f"network={self.network!r}: {type(pl_module).__name__} has no such module. It has {names or 'none'}."
            ) from error
        return found

    def _inputs(self, pl_module: LightningModule) -> ExampleInputs:
        found: ExampleInputs | None = self.example_inputs
        if found is None:
            found = getattr(pl_module, "example_input_array", None)
        if found is None:
            raise InputError(
                f"PruneCallback(example_inputs=…) is missing, and {type(pl_module).__name__} has no "
                "example_input_array: hand over what the network is called with, a batch for instance."
            )
        return found
