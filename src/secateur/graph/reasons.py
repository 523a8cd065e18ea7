"""Why entries stay, and which change of the network's source would free them: each in one sentence, in one place."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ASKED", "BY_NUMBER", "BY_VALUE", "CHANGES", "CHOSEN", "ELSEWHERE", "MEETS", "NO_RULE", "ONE_BY_ONE",
           "ORDER", "OTHER_TYPE", "OUTPUT", "PACKED", "ROWS", "SIZED", "change_for"]  # fmt: skip

NO_RULE = "no rule for this operator"
ORDER = "which entry comes where depends on all of them"
BY_VALUE = "how many entries there are depends on their values"
BY_NUMBER = "entries are picked by their numbers"
CHOSEN = "values are used that are numbers of entries"
ASKED = "experts are asked for one by one"
ELSEWHERE = "numbers of entries pick from another dimension than theirs"
OTHER_TYPE = "a view as another type"
PACKED = "a packed sequence"
SIZED = "a size depends on the data"
ONE_BY_ONE = "entries are taken one by one"
ROWS = "rows of a table are picked by numbers, as words of a vocabulary are"
MEETS = (
    "they meet as many entries that stay: of an input of the network, of a constant, of something computed from these"
)
OUTPUT = "it is an output of the network"

CHANGES: Mapping[str, str] = {
    NO_RULE: "write it with operators that have a rule, or bring a rule of your own (docs/bring-your-own.md)",
    ORDER: "sort or choose along another dimension, or do it to what the network returns",
    BY_VALUE: "multiply by the mask (torch.where(mask, x, 0)) in place of picking by it",
    BY_NUMBER: "pick with a constant tensor of numbers (a buffer), which is rewritten with the cut",
    CHOSEN: "use such numbers to pick alone (x[numbers], gather, one_hot), and compute with what was picked",
    ELSEWHERE: "pick from the dimension that the numbers were found in",
    OTHER_TYPE: "convert with to() in place of view(dtype)",
    PACKED: "hand the layer padded tensors, and pick the last step of every sample afterwards",
    SIZED: "give the result a fixed size (torch.where in place of a mask as an index)",
    ONE_BY_ONE: "take pieces of one size (chunk, or reshape and a sum over the new dimension)",
    ASKED: "take whole experts out of their list with secateur.remove_experts",
    ROWS: "renumber what the numbers stand for, and cut the table by hand",
    MEETS: "put a layer (a linear one, a convolution of size 1) between the two",
    OUTPUT: "return what is computed from it in its place",
}
"""What to change in the network's source, by reason."""


def change_for(reason: str) -> str:
    """What to change in the source; empty where nothing is known.

    >>> change_for("a view as another type")
    'convert with to() in place of view(dtype)'
    """
    return next((change for known, change in CHANGES.items() if reason.startswith(known)), "")
