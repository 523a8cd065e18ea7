"""``tokenizer.json`` with fewer tokens: what has to stay, and the file with the rest gone and new numbers.

What stays splits the texts that it was made for as before. BPE: a word ends in the tokens that its merges lead to, and
merges are never undone, so with every merge on the way to a token that stays the same merges are done in the same
order. WordPiece takes the longest token that fits, Unigram the likeliest sequence: with fewer others the choice is the
same. Callers compare all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from secateur.core.errors import InputError, UnknownNameError

__all__ = ["cut_tokens", "tokens_of", "what_stays"]

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")


def tokens_of(file: Mapping[str, Any]) -> dict[str, int]:
    """Tokens with their numbers, those that were added among them.

    Raises:
        InputError: A model of tokens that is not known here.
    """
    model = file["model"]
    kind = _kind(model)
    vocabulary = model["vocab"]
    found = {token: k for k, (token, _) in enumerate(vocabulary)} if kind == "Unigram" else dict(vocabulary)
    return found | {added["content"]: added["id"] for added in file.get("added_tokens") or ()}


def _kind(model: Mapping[str, Any]) -> str:
    """BPE, WordPiece …; older files do not say it."""
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model
                                 else "Unigram" if isinstance(model.get("vocab"), list) else "WordLevel")  # fmt: skip
    if kind not in _MODELS:
        raise UnknownNameError("model of tokens", str(kind), _MODELS)
    if kind == "BPE" and model.get("continuing_subword_prefix"):
        raise InputError("The tokenizer marks the tokens inside a word (continuing_subword_prefix) in a BPE; such a "
                         "vocabulary cannot be cut here.")  # fmt: skip
    return str(kind)


def what_stays(file: Mapping[str, Any], used: Collection[int]) -> set[int]:
    """Numbers of the tokens that a vocabulary keeps for the sake of those that are used.

    Special and other added tokens, single bytes and characters always stay, and of BPE the tokens on the way to those
    that stay.

    Args:
        file: ``tokenizer.json``, as plain data.
        used: Numbers of tokens.
    """
    tokens, model = tokens_of(file), file["model"]
    names = {number: token for token, number in tokens.items()}
    added = {entry["id"] for entry in file.get("added_tokens") or ()}
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    single = {n for token, n in tokens.items() if _is_single(token, prefix, suffix)}
    stays = {n for n in used if n in names} | added | single
    unknown = model.get("unk_token")
    stays |= {tokens[unknown]} if unknown in tokens else set()
    if isinstance(model.get("unk_id"), int):
        stays.add(model["unk_id"])
    if _kind(model) == "BPE":
        ranks = {pair: k for k, pair in enumerate(map(_pair, model.get("merges") or ()))}
        for number in tuple(stays):
            stays |= {tokens[part] for part in _parts(names[number], ranks, suffix) if part in tokens}
    return stays


def _is_single(token: str, prefix: str, suffix: str) -> bool:
    """A byte or one character, where a word begins (▁ is in its place), goes on or ends."""
    bare = token.removeprefix(prefix) if prefix else token
    bare = bare.removesuffix(suffix) if suffix and bare != suffix else bare
    return len(bare) <= 1 or (len(bare) == 2 and bare[0] in "▁Ġ") or _BYTE.fullmatch(token) is not None


def _pair(merge: str | list[str]) -> tuple[str, str]:
    one, other = merge.split(" ", 1) if isinstance(merge, str) else merge
    return one, other


def _parts(token: str, ranks: Mapping[tuple[str, str], int], suffix: str) -> list[str]:
    """Everything that is merged on the way to a token, itself among it."""
    ends = bool(suffix) and token.endswith(suffix) and token != suffix
    pieces = list(token.removesuffix(suffix)) if ends else list(token)
    pieces = [*pieces[:-1], pieces[-1] + suffix] if ends else pieces
    made = list(pieces)
    while len(pieces) > 1:
        rank, at = min((ranks.get((pieces[k], pieces[k + 1]), len(ranks)), k) for k in range(len(pieces) - 1))
        if rank == len(ranks):
            break  # no merges lead to it: it was added, or is found whole
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        made.append(pieces[at])
    return made


def cut_tokens(file: Mapping[str, Any], keep: Collection[int]) -> tuple[dict[str, Any], dict[int, int]]:
    """The file with the tokens ``keep`` alone, numbered anew in their order.

    Returns:
        The file as plain data, and the new number of each token that stays.
    """
    numbers = {old: new for new, old in enumerate(sorted(keep))}
    model = dict(file["model"])
    if _kind(model) == "Unigram":
        model["vocab"] = [entry for k, entry in enumerate(model["vocab"]) if k in numbers]
        if isinstance(model.get("unk_id"), int):
            model["unk_id"] = numbers[model["unk_id"]]
    else:
        model["vocab"] = {token: numbers[n] for token, n in model["vocab"].items() if n in numbers}
    if "merges" in model:
        left = model["vocab"]
        model["merges"] = [m for m in model["merges"] if all(t in left for t in (*_pair(m), "".join(_pair(m))))]
    added = [{**entry, "id": numbers[entry["id"]]} for entry in file.get("added_tokens") or ()]
    made = {
        **file,
        "model": model,
        "added_tokens": added,
        "post_processor": _renumbered(file.get("post_processor"), numbers),
    }
    if made.get("padding"):
        made["padding"] = {**made["padding"], "pad_id": numbers[made["padding"]["pad_id"]]}
    return made, numbers


def _renumbered(part: Any, numbers: Mapping[int, int]) -> Any:
    """What is put around texts (``[CLS]`` …), with the new numbers."""
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and type(part[1]) is int:  # BERT's and RoBERTa's
            return [part[0], numbers[part[1]]]
        return [_renumbered(one, numbers) for one in part]
    if not isinstance(part, dict):
        return part
    return {key: [numbers[n] for n in value] if key == "ids" else _renumbered(value, numbers)
            for key, value in part.items()}  # fmt: skip
