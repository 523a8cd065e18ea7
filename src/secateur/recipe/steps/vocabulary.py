"""The step that hands the network over with the tokens alone that its texts use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from secateur.core.errors import DataError, InputError
from secateur.core.reading import read_text
from secateur.cut.vocabulary import cut_vocabulary, tokens_that_stay
from secateur.models.transformer import is_transformer_name, load_tokenizer, save_beside
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult
from secateur.task.text.tokens import file_of

__all__ = ["CutVocabulary", "CutVocabularySettings"]

FOLDER = "fewer-tokens"
_LARGEST = 2**30


class CutVocabularySettings(Settings):
    """Which texts the vocabulary is for.

    Attributes:
        texts: A file, as ``text:FILE`` or by its name, whose tokens stay; by default the texts that the task trains on.
    """

    texts: str | None = None


class CutVocabulary(Step[CutVocabularySettings]):
    """Writes the network (the pruned one once there is one) with fewer tokens, its tokenizer beside it.

    The network of the run stays as it is: scores over fewer tokens do not compare with those over all.
    """

    summary = "write the network and its tokenizer without the tokens that the texts never use"
    config = CutVocabularySettings
    compared = False

    def words(self, summary: Mapping[str, Any]) -> str:
        """Tokens before and after."""
        return f"{summary['tokens_before']:,} → {summary['tokens']:,} tokens"

    def foresee(self, config: CutVocabularySettings, ahead: Ahead) -> None:
        """Asks the tokenizer which tokens the texts use."""
        if not is_transformer_name(ahead.name):
            raise InputError(
                f"{ahead.name or 'The network that was handed over'} brings no tokenizer: name a network of "
                "transformers in the recipe, hf:NAME."
            )
        tokens_that_stay(ahead.model, load_tokenizer(ahead.name), _texts(config, ahead.task))

    def run(self, context: Context, state: State, config: CutVocabularySettings) -> tuple[State, StepResult]:
        """Writes the folder ``fewer-tokens``, as ``from_pretrained`` of transformers opens it."""
        name = context.recipe.model.name
        found = cut_vocabulary(state.network, load_tokenizer(name), _texts(config, context.task))
        folder = context.folder / FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
        found.save_pretrained(folder)
        save_beside(folder, source=name)
        params = sum(p.numel() for p in found.model.parameters())
        said = (
            f"Without the tokens that the texts never use ({found.before:,} → {found.after:,}), the network in "
            f"{FOLDER} has {params:,} parameters."
        )
        numbers = {"tokens_before": found.before, "tokens": found.after, "params_fewer_tokens": params}
        return state, StepResult(summary=numbers, report={"notes": [said]})


def _texts(config: CutVocabularySettings, task: Any) -> list[str]:
    """Whose tokens stay."""
    if config.texts is None:
        return list(_trained_on(task))
    return read_text(file_of(config.texts), DataError, largest=_LARGEST).splitlines()


def _trained_on(task: Any) -> Iterator[str]:
    """Texts that a task trains on: lines, texts with a label, or pairs with a score."""
    rows = getattr(getattr(task, "data", None), "train", None)
    if not isinstance(rows, tuple) or not all(isinstance(row, str | tuple) for row in rows):
        raise InputError(f"The task {task.name} trains on no texts; say whose tokens stay: texts: text:FILE.")
    for row in rows:
        parts = row.splitlines() if isinstance(row, str) else row[:-1]
        yield from (part for part in parts if isinstance(part, str))


STEPS.add("cut_vocabulary", CutVocabulary())
