"""`secateur vocabulary`: tokens that a text never uses go from a network and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from secateur.cli.commands.networks import Opened
from secateur.cli.commands.pruning import refuse_taken
from secateur.cli.commands.show import change, console, integer, say, table
from secateur.core.errors import DataError, InputError
from secateur.core.files import disk_errors
from secateur.core.progress import working
from secateur.core.reading import read_text
from secateur.cut.vocabulary import cut_vocabulary
from secateur.models.transformer import save_beside
from secateur.task.text.tokens import file_of

__all__ = ["vocabulary"]

_LARGEST = 2**30


def vocabulary(opened: Opened, data: str, out: Path) -> None:
    """Cuts the vocabulary to the lines of a text, and writes network and tokenizer as transformers opens them.

    Raises:
        InputError: A network without a tokenizer, or nothing that could go.
        DataError: The text cannot be read.
    """
    refuse_taken(out)
    if opened.tokenizer is None:
        raise InputError(f"{opened.name} brings no tokenizer: name a network of transformers, hf:NAME.")
    texts = read_text(file_of(data), DataError, largest=_LARGEST).splitlines()
    with working("Cutting and comparing", after_s=0):
        found = cut_vocabulary(opened.model, opened.tokenizer, texts)
    with disk_errors(out):
        found.save_pretrained(out)
        save_beside(out, source=opened.name)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (opened.model, found.model))
    rows = [
        [name, integer(dense), integer(left), change(dense, left)]
        for name, dense, left in (("Tokens", found.before, found.after), ("Parameters", before, after))
    ]
    console().print(table([opened.name, "Before", "After", "Change"], rows))
    say(f"Compared: every line comes out as the same tokens, and results differ by {found.error:.1e} at most.")
    say(f"Saved: {out}, for {type(found.model).__name__}.from_pretrained")
