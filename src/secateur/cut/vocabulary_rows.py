"""A network's rows of tokens: embedding, scores, what is tied to them, and the numbers that its configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.graph.copies import deep_copy

__all__ = ["cut_rows", "named_ids"]

_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
"""Entries that name tokens that are never written; what is gone needs no mention."""


def _configurations(model: Any) -> Iterator[Any]:
    """Configurations that may name tokens: the network's, that of its text part, that of generation."""
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    found = [model.config, text, getattr(model, "generation_config", None)]
    yield from {id(one): one for one in found if one is not None}.values()


def _entries(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name.endswith("_token_id") and value is not None}


def named_ids(model: nn.Module) -> set[int]:
    """Numbers of the tokens that the configuration names, where the embedding has them (the end of a text …)."""
    network: Any = model
    rows = network.get_input_embeddings().weight.shape[0]
    values = [value for config in _configurations(model) for value in _entries(config).values()]
    flat = [n for value in values for n in (value if isinstance(value, list) else [value])]
    return {n for n in flat if isinstance(n, int) and 0 <= n < rows}


def cut_rows(model: nn.Module, keep: Sequence[int], numbers: Mapping[int, int]) -> nn.Module:
    """A copy of the network with the rows ``keep`` of everything that has one row a token.

    Args:
        model: A network of transformers; left untouched.
        keep: Old numbers in ascending order.
        numbers: The new number of each.

    Raises:
        InputError: It has further weights with as many entries as tokens, of which nobody knows what they are.
    """
    small: Any = deep_copy(model)
    rows = small.get_input_embeddings().weight.shape[0]
    index = torch.tensor(list(keep))
    known = _weights(small, rows)
    made = {n: nn.Parameter(_rows(p, index, rows), p.requires_grad) for n, p in known.items()}  # tied ones stay tied
    for module in small.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in made:
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and rows in buffer.shape[-1:] and name == "final_logits_bias":
                module._buffers[name] = buffer.index_select(-1, index.to(buffer.device))
        _renumber(module, rows, len(keep), numbers)
    _configure(small, rows, numbers)
    return small  # type: ignore[no-any-return]


def _weights(model: Any, rows: int) -> dict[int, nn.Parameter]:
    """Weights with one row a token: the embedding, the layer that scores, and biases of scores."""
    scores = model.get_output_embeddings()
    tables = {id(model.get_input_embeddings().weight)} | ({id(scores.weight)} if scores is not None else set())
    tables |= {id(p) for n, p in model.named_parameters() if n.endswith(("embed_tokens.weight", "shared.weight"))}
    found = {}
    for name, parameter in model.named_parameters():
        if rows not in parameter.shape:
            continue
        if id(parameter) in tables or (parameter.ndim == 1 and name.endswith("bias")):
            found[id(parameter)] = parameter
        elif not (parameter.ndim == 2 and parameter.shape[0] != rows):
            raise InputError(
                f"{name} has shape {tuple(parameter.shape)}, and the embedding {rows} rows: whether its own are "
                "tokens is not known, so the vocabulary of this network cannot be cut."
            )
    return found


def _rows(tensor: Tensor, index: Tensor, rows: int) -> Tensor:
    dim = 0 if tensor.shape[0] == rows else tensor.ndim - 1
    return tensor.detach().index_select(dim, index.to(tensor.device))


def _renumber(module: Any, rows: int, left: int, numbers: Mapping[int, int]) -> None:
    """Sizes that layers remember, and the token that fills up."""
    if isinstance(module, nn.Embedding) and module.num_embeddings == rows and module.weight.shape[0] == left:
        module.num_embeddings = left
        if module.padding_idx is not None:
            module.padding_idx = numbers.get(module.padding_idx)
    if isinstance(module, nn.Linear) and module.out_features == rows and module.weight.shape[0] == left:
        module.out_features = left
    if vars(module).get("vocab_size") == rows:
        module.vocab_size = left
    if isinstance(vars(module).get("padding_idx"), int) and not isinstance(module, nn.Embedding):
        module.padding_idx = numbers.get(module.padding_idx)


def _configure(model: Any, rows: int, numbers: Mapping[int, int]) -> None:
    for config in _configurations(model):
        if getattr(config, "vocab_size", None) == rows:
            config.vocab_size = len(numbers)
        for name, value in _entries(config).items():
            setattr(config, name, _new(value, numbers))
        for name in _LISTS:
            value = getattr(config, name, None)
            if isinstance(value, list):
                setattr(config, name, _left(value, numbers) or None)


def _new(value: Any, numbers: Mapping[int, int]) -> Any:
    """The new number or numbers; what the embedding never had (−1, or a number beyond it) is no token."""
    if isinstance(value, list):
        return [numbers[n] for n in value if n in numbers]
    return numbers.get(value)


def _left(value: list[Any], numbers: Mapping[int, int]) -> list[Any]:
    if value and isinstance(value[0], list):
        return [[numbers[n] for n in word] for word in value if all(n in numbers for n in word)]
    return [numbers[n] for n in value if n in numbers]
