"""Tokens that a corpus never uses, cut from embedding, scores and tokenizer together."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError, VerificationError, first_line
from secateur.core.hints import HoldsNetwork
from secateur.core.plan import forget
from secateur.core.rounding import rounding
from secateur.cut.pruned import Pruned
from secateur.cut.vocabulary_rows import cut_rows, named_ids
from secateur.graph.copies import running_copy
from secateur.models.transformer import check_tokenizer, kind_of, save_beside
from secateur.models.transformer.tokenizer_json import cut_tokens, what_stays

__all__ = ["Vocabulary", "cut_vocabulary", "tokens_that_stay"]


@dataclass(frozen=True)
class Vocabulary(HoldsNetwork):
    """A network with fewer tokens, and its tokenizer.

    Attributes:
        model: The network; to Secateur it is a new one, without earlier cuts.
        tokenizer: Its tokenizer, of the class that it was.
        kept: The old numbers of the tokens, in the order of the new ones.
        before: Rows of the embedding before.
        error: Largest difference between the scores (embeddings) of the dense network, of the tokens that stay, and
            those of this one, relative to the largest of them, on the first texts.
    """

    model: nn.Module
    tokenizer: Any
    kept: tuple[int, ...] = field(repr=False)
    before: int
    error: float

    @property
    def after(self) -> int:
        """Rows of the embedding."""
        return len(self.kept)

    @arguments.checked
    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes network and tokenizer as ``from_pretrained`` of transformers opens them; returns the folder."""
        network: Any = self.model
        network.save_pretrained(folder)
        save_beside(Path(folder), self.tokenizer)
        return Path(folder)


@arguments.checked
def cut_vocabulary(
    model: nn.Module | Pruned, tokenizer: Any, texts: Iterable[str], *, keep: Collection[str] = ()
) -> Vocabulary:
    """Removes the tokens that ``texts`` never use: rows of the embedding and of the scores, and from the tokenizer.

    Special tokens, all others that were added, single bytes and characters stay, so that every text can still be
    written; of BPE also what the tokens that stay are merged from. The texts come out as the same tokens as before;
    other texts may come out as more and shorter ones.

    Args:
        model: A network of transformers, tied embeddings or not; left untouched.
        tokenizer: Its fast tokenizer (one that has a ``tokenizer.json``); left untouched.
        texts: The corpus, text by text; gone through twice, so a generator is read into memory.
        keep: Further texts whose tokens stay.

    Returns:
        Network and tokenizer, compared with those before.

    Raises:
        InputError: No network of transformers, another tokenizer than its own, no texts, or nothing that could go.
        VerificationError: A text comes out as other tokens, or the network computes something else.
    """
    network = model.model if isinstance(model, Pruned) else model
    corpus = _texts(texts, keep)
    file = _file_of(tokenizer, network)
    stays, rows = tokens_that_stay(network, tokenizer, corpus)
    made, numbers = cut_tokens(file, stays)
    smaller = _reopened(tokenizer, made, numbers)
    _check_texts(tokenizer, smaller, corpus)
    small = cut_rows(network, sorted(stays), numbers)
    forget(small)
    return Vocabulary(small, smaller, tuple(sorted(stays)), rows, _compared(network, small, tokenizer, corpus, numbers))


def tokens_that_stay(network: nn.Module, tokenizer: Any, texts: Iterable[str]) -> tuple[set[int], int]:
    """Numbers of the tokens that :func:`cut_vocabulary` leaves, and how many there are.

    Raises:
        InputError: As there.
    """
    file = _file_of(tokenizer, network)
    used = {number for text in texts for number in _numbers(tokenizer, text)}
    asked: Any = network
    rows = asked.get_input_embeddings().weight.shape[0]
    stays = {n for n in what_stays(file, used | named_ids(network)) if n < rows}
    if len(stays) >= rows:
        raise InputError(f"Nothing can go: all {rows} tokens are used, special, or parts of others.")
    return stays, rows


def _texts(texts: Iterable[str], keep: Collection[str]) -> list[str]:
    found = [text for name, several in (("texts", texts), ("keep", keep)) for text in _each(name, several) if text]
    if not found:
        raise InputError("There is no text in texts, so every token would go. Give the texts that the network is for.")
    return found


def _each(name: str, texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise InputError(f"{name} is an iterable of texts, such as a list or an open file; got one text. Give [text].")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{name} is an iterable of texts, such as a list or an open file; it holds {text!r:.60}.")
        yield text


def _file_of(tokenizer: Any, model: nn.Module) -> dict[str, Any]:
    """``tokenizer.json`` as plain data, once it is sure that network and tokenizer are what can be cut."""
    if kind_of(model) is None:
        raise InputError(f"A vocabulary is cut of networks of transformers; got {type(model).__name__}.")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"tokenizer is a fast one of transformers, with a tokenizer.json; got {type(tokenizer).__name__}."
        )
    check_tokenizer(tokenizer, model)
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _numbers(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return found


_OLD = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
"""Files of slow tokenizers: they would still hold every token."""


def _reopened(tokenizer: Any, file: Mapping[str, Any], numbers: Mapping[int, int]) -> Any:
    """A tokenizer of the same class, made from the changed file as anybody would open it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer.save_pretrained(folder)
        for old in (*(folder / name for name in _OLD), *folder.glob("*.model")):
            old.unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False), encoding="utf-8")
        place = folder / "tokenizer_config.json"
        config = json.loads(place.read_text(encoding="utf-8"))
        if decoder := config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = {str(numbers[int(n)]): entry for n, entry in decoder.items()}
        place.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        try:
            return type(tokenizer).from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise VerificationError(
                f"The tokenizer cannot be opened with fewer tokens: {type(error).__name__}: {first_line(error)}."
            ) from error


def _check_texts(before: Any, after: Any, corpus: list[str]) -> None:
    for text in corpus:
        old, new = (t.convert_ids_to_tokens(_numbers(t, text)) for t in (before, after))
        if old != new:
            k = next((k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            raise VerificationError(
                f"With fewer tokens the text {text[:60]!r} comes out otherwise: {old[k : k + 3]} has become "
                f"{new[k : k + 3]}. Nothing was cut. Please report the tokenizer."
            )


_TRIED = 64
"""Tokens of a text that the networks are compared on."""


def _compared(
    dense: nn.Module, small: nn.Module, tokenizer: Any, corpus: list[str], numbers: Mapping[int, int]
) -> float:
    """Runs both networks on the first texts.

    Raises:
        VerificationError: They differ by more than rounding.
    """
    kept, worst = torch.tensor(sorted(numbers)), 0.0
    for text in corpus[:4]:
        old = _numbers(tokenizer, text)[:_TRIED]
        want, got = (_output(net, ids) for net, ids in ((dense, old), (small, [numbers[n] for n in old])))
        want = want[..., kept.to(want.device)] if want.shape[-1] != got.shape[-1] else want
        worst = max(worst, float((want - got).abs().max() / want.abs().max().clamp_min(1e-30)))
        if not worst <= rounding(got.dtype, 1e-5):
            raise VerificationError(
                f"The network with fewer tokens gives other results (relative difference {worst:.1e}) for the text "
                f"{text[:60]!r}. Nothing was returned. Please report the network."
            )
    return worst


def _output(model: nn.Module, numbers: list[int]) -> Tensor:
    network: Any = running_copy(model).eval()
    ids = torch.tensor([numbers], device=next(model.parameters()).device)
    with torch.no_grad():
        found = network(input_ids=ids, **({"decoder_input_ids": ids} if network.config.is_encoder_decoder else {}))
    first: Tensor = found.logits if hasattr(found, "logits") else found[0]
    return first
