"""A callback of transformers' Trainer that prunes between epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.callbacks.loop import cut_in_place, rehearse
from secateur.callbacks.schedule import checked_schedule
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.cut.pruned import Pruned
from secateur.models import import_torchvision
from secateur.runtimes.packages import need

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    with contextlib.suppress(InputError):
        import_torchvision()  # the library does, and stumbles over one without its operators
    try:
        from transformers import TrainerCallback
    except ImportError:  # said when one is made
        TrainerCallback = object

__all__ = ["PruneCallback"]


class PruneCallback(TrainerCallback):
    """Prunes after epochs of ``Trainer.train``, and carries the optimizer over.

    The network stays the object that the Trainer holds, and its configuration is made true, so checkpoints of the
    Trainer are opened by ``from_pretrained``: give such a network to a new Trainer to resume.

    Args:
        at: The arguments of :func:`secateur.prune` by the epoch after which they are used, counted from 1:
            ``{1: {"ratio": 0.25}}``, or what :func:`secateur.callbacks.gradually` gives.
        example_inputs: What the network is called with: ``{"input_ids": …, "attention_mask": …}``.
        options: Arguments of :func:`secateur.prune` for all cuts.

    Attributes:
        pruned: The last cut, with the network as its model; ``None`` before the first.

    Raises:
        InputError: transformers or accelerate is not installed, or the schedule is none. Later: the training runs in
            several processes, would load the best of checkpoints that have different sizes, or a cut would fail.
    """

    def __init__(self, at: Mapping[int, Mapping[str, Any]], example_inputs: ExampleInputs, **options: Any) -> None:
        """See the class."""
        need(("transformers", "accelerate"), "trainer", "The callback for the Trainer")
        self.at = checked_schedule(at, options)
        self.example_inputs = example_inputs
        self.pruned: Pruned | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks what would end badly hours later."""
        if args.world_size > 1 or args.n_gpu > 1:
            count = max(args.world_size, args.n_gpu)
            raise InputError(
                f"Pruning between epochs runs on one device; this training runs on {count}. Prune before it."
            )
        if args.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end=True would load weights of another size into the pruned network. Set it to "
                "False, and open the checkpoint that you want with from_pretrained."
            )
        done = _whole_epochs(state)
        rehearse(kwargs["model"], self.example_inputs, {e: cut for e, cut in self.at.items() if e > done})

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Cuts, if this is the epoch."""
        options = self.at.get(_whole_epochs(state))
        if options is not None and model is not None:
            inner = getattr(optimizer, "optimizer", optimizer)  # of what Accelerate wraps around it
            self.pruned = cut_in_place(model, self.example_inputs, [inner], **options)


def _whole_epochs(state: TrainerState) -> int:
    """Epochs that are over; one that ``max_steps`` ends halfway is not."""
    return int((state.epoch or 0) + 1e-3)
