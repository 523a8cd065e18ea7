"""What cuts of language models go by: criteria that look at activations, and a word on a loss that rises too far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.inputs import Data
from secateur.graph.copies import running_copy
from secateur.models.transformer.kinds import is_language_model, kind_of

__all__ = ["BEYOND_REASON", "criterion_for", "loss_notes"]

C = TypeVar("C")

BEYOND_REASON = 1.0
"""Rise of the loss in nats a token that is told: a perplexity of e times the dense network's."""

_SAMPLES = 8
_IGNORED = -100


def criterion_for(model: nn.Module, criterion: str | C | None, data: Data | None) -> str | C:
    """The criterion of a cut that asks for none.

    A few units of a language model have massive activations and small weights, and without them nothing is left of it,
    so with data it is ``wanda``; ``l2`` everywhere else.
    """
    if criterion is not None:
        return criterion
    return "wanda" if data is not None and is_language_model(model) else "l2"


def loss_notes(dense: nn.Module, small: nn.Module, criterion: Any, data: Data | None) -> tuple[str, ...]:
    """A note where a language model's loss on the calibration text rose beyond reason, or may have unseen.

    Args:
        dense: The network before the cut.
        small: After it.
        criterion: The name of what decided, where it has one.
        data: Calibration data; nothing is measured on what can be gone through once.
    """
    if not is_language_model(dense):
        return ()
    if data is None:
        words = "no calibration text was given, so what the cut does to the loss is not known"
        return (f"{words}; a criterion that looks at weights alone ruins language models: give data",) * (
            criterion in ("l1", "l2")
        )
    samples = [] if isinstance(data, Iterator) else list(islice(_samples(data, kind_of(dense) == "masked"), _SAMPLES))
    if not samples:
        return ()
    before, after = (_loss(running_copy(network).eval(), samples) for network in (dense, small))
    if not after > before + BEYOND_REASON and math.isfinite(after):
        return ()
    return (
        f"the loss on the calibration text rises from {before:.2f} to {after:.2f} nats a token (perplexity "
        f"{_perplexity(before)} → {_perplexity(after)}): repair it (secateur.recover), cut less, or choose by another "
        "criterion (wanda, reconstruction)",
    )


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):,.1f}" if loss < 50 else f"e^{loss:.0f}"


def _samples(data: Data, masked: bool) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Inputs of one text each, with the tokens that the network is to give (−100 for none)."""
    for item in _items(data):
        inputs, labels = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
            return
        target = _target(inputs, labels, masked)
        if target is None:
            return
        for k in range(len(target)):
            yield {n: v[k : k + 1] if isinstance(v, Tensor) else v for n, v in inputs.items()}, target[k : k + 1]


def _items(data: Any) -> Iterable[Any]:
    if isinstance(data, Mapping):
        return [data]
    if isinstance(data, tuple):
        return [data]
    if hasattr(data, "calibration"):  # a task
        return data.calibration(_SAMPLES)  # type: ignore[no-any-return]
    return data if isinstance(data, Iterable) else []


def _target(inputs: Mapping[str, Any], labels: Any, masked: bool) -> Tensor | None:
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if masked:
        return labels if isinstance(labels, Tensor) and labels.shape == ids.shape and bool((labels < 0).any()) else None
    wanted = torch.full_like(ids, _IGNORED)
    wanted[:, :-1] = ids[:, 1:]
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        both = mask[:, 1:].bool() & mask[:, :-1].bool()
        wanted[:, :-1] = wanted[:, :-1].masked_fill(~both, _IGNORED)
    return wanted


def _loss(network: nn.Module, samples: list[tuple[dict[str, Any], Tensor]]) -> float:
    """Mean cross-entropy in nats of the tokens that are asked for."""
    home = next((p.device for p in network.parameters()), torch.device("cpu"))
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, wanted in samples:
            given = {n: v.to(home) if isinstance(v, Tensor) else v for n, v in inputs.items()}
            scores = network(**given).logits[0].float()
            target = wanted[0].to(home)
            total += float(F.cross_entropy(scores, target, ignore_index=_IGNORED, reduction="sum"))
            count += int((target != _IGNORED).sum())
    return total / max(1, count)
