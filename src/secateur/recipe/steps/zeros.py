"""The step that removes what a group lasso has pushed to zero."""

from __future__ import annotations

from pydantic import Field

from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult
from secateur.recipe.steps.pruning import after_cut, keep_cut
from secateur.sparsity.zeros import remove_zeros

__all__ = ["RemoveZeros", "RemoveZerosSettings"]


class RemoveZerosSettings(Settings):
    """Settings of `secateur.sparsity.zeros.remove_zeros`.

    Attributes:
        below: Size under which a weight counts as zero.
    """

    below: float = Field(default=1e-4, ge=0)

    def __str__(self) -> str:
        """What is asked for, in words."""
        return f"branches and channels whose weights are all below {self.below:g}"


class RemoveZeros(Step[RemoveZerosSettings]):
    """Sets small weights to zero, and removes branches and channels without effect."""

    summary = "set small weights to zero, and remove what has no effect then"
    config = RemoveZerosSettings
    changes_network, cuts = True, "zeros"

    def run(self, context: Context, state: State, config: RemoveZerosSettings) -> tuple[State, StepResult]:
        """Cuts the current network, which stays as it is."""
        pruned = remove_zeros(state.network, context.inputs(2), below=config.below)
        return keep_cut(context, state, pruned, str(config), [])

    def restore(self, context: Context, state: State, config: RemoveZerosSettings) -> State:
        """Removes the same again: it follows from the weights alone."""
        pruned = remove_zeros(state.network, context.inputs(2), below=config.below)
        return after_cut(state, pruned)


STEPS.add("remove_zeros", RemoveZeros())
