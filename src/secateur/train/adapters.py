"""Low-rank adapters: a few numbers beside every linear layer are trained, and then added to its weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, UnknownNameError, VerificationError
from secateur.core.patterns import covered
from secateur.core.rounding import rounding
from secateur.core.seeds import derive
from secateur.graph.calling import outputs_of, preserved_rng, to_args
from secateur.graph.copies import running_copy, shallow_copy
from secateur.models.transformer.source import transformers
from secateur.surgery.agreement import apart
from secateur.task import Task
from secateur.train.extras import Extra

__all__ = ["Adapters", "adapted", "check_installed"]


class Adapters(BaseModel):
    """Settings of low-rank adapters; unknown names and impossible values are refused.

    Formula: a linear layer with weights W (out, in) computes W·x + α/r · B·A·x while A (r, in) and B (out, r) alone are
    trained, from B = 0; in the end W becomes W + α/r · B·A. Source: Hu et al. 2021, LoRA, arXiv:2106.09685, §4.1.

    Attributes:
        rank: r.
        alpha: α; by default 2r.
        dropout: Share of x that the adapters do not see while they are trained.
        layers: Names or patterns of the linear layers that get adapters (or of modules around them); by default all
            but those whose weights another module shares (the scores of a language model with its embedding).

    >>> Adapters(rank=4).scaling
    2.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=8, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: tuple[str, ...] | None = None

    @property
    def scaling(self) -> float:
        """α/r."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


class _Named(Extra):
    """Nothing but a name, so that no checkpoint is continued with other adapters."""

    def __init__(self, adapters: Adapters) -> None:
        self.adapters = adapters

    def settings(self) -> dict[str, Any]:
        return {"extra": "Adapters", **self.adapters.model_dump(mode="json")}


def check_installed() -> None:
    """Looks for PEFT.

    Raises:
        InputError: It is not installed.
    """
    with contextlib.suppress(InputError):
        transformers()  # which PEFT imports, and torchvision with it
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise InputError('Low-rank adapters need peft: pip install "secateur[adapters]".') from error


@contextlib.contextmanager
def adapted(
    model: nn.Module, adapters: Adapters, task: Task, seed: tuple[object, ...]
) -> Iterator[tuple[nn.Module, Extra]]:
    """A twin of ``model`` with adapters; what these have become is added to the weights of ``model`` in the end.

    The twin shares all tensors, and only its adapters want gradients. ``model`` keeps its modules, names and shapes;
    where an error comes up inside, its weights too.

    Args:
        model: The network.
        adapters: The settings.
        task: Whose samples both are compared on.
        seed: What A is drawn by.

    Yields:
        The twin, and what names the adapters in checkpoints.

    Raises:
        InputError: PEFT is not installed, or no linear layer could get adapters.
        UnknownNameError: A name in ``layers`` that fits no linear layer.
        VerificationError: With the adapters added it computes something else than with them beside.
    """
    check_installed()
    names = _targets(model, adapters)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    twin = shallow_copy(model)
    try:
        with preserved_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that keep their weights transposed, which it then sees to
            torch.manual_seed(derive(*seed, "adapters"))
            _inject(twin, names, adapters)
        yield twin, _Named(adapters)
        _merge(twin, model, names, task)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, or GPT-2's with transposed weights; no subclass, which may compute otherwise."""
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def _targets(model: nn.Module, adapters: Adapters) -> list[str]:
    """Names of the layers that get adapters."""
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise InputError(
            "The network has adapters of its own: train these (a loop of yours, the Trainer), or merge them first "
            "(merge_and_unload)."
        )
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    found = [n for n, m in model.named_modules() if n and _linear(m) and uses[id(m.weight)] == 1]
    for pattern in adapters.layers or ():
        if not any(covered(name, [pattern]) for name in found):
            raise UnknownNameError("linear layer", pattern, found, argument="layers")
    chosen = [n for n in found if adapters.layers is None or covered(n, adapters.layers)]
    if not chosen:
        raise InputError("The network has no linear layer (torch.nn.Linear) that adapters could stand beside. Train "
                         "all its weights: leave adapters out.")  # fmt: skip
    return chosen


def _inject(twin: nn.Module, names: Sequence[str], adapters: Adapters) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    # A pattern that only these names fit: PEFT takes a name for the end of others, too.
    wanted = "|".join(name.replace(".", r"\.") for name in names)
    inject_adapter_in_model(
        LoraConfig(
            r=adapters.rank,
            lora_alpha=adapters.scaling * adapters.rank,  # type: ignore[arg-type]  # it divides it, so fractions do
            lora_dropout=adapters.dropout,
            target_modules=f"({wanted})",
        ),
        twin,
    )


def _merge(twin: nn.Module, model: nn.Module, names: Sequence[str], task: Task) -> None:
    """Adds B·A to the weights that twin and network share, and makes sure that both compute the same.

    Raises:
        VerificationError: They do not; the network then has its weights from before.
    """
    inputs = task.sample(2, split="train")
    home = next(model.parameters()).device
    inputs = pytree.tree_map(lambda v: v.to(home) if isinstance(v, Tensor) else v, inputs)
    before = _outputs(twin, inputs)
    weights = {name: _weight(model, name) for name in names}
    kept = {name: weight.clone() for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            layer: Any = twin.get_submodule(name)
            weight.add_(layer.get_delta_weight("default").detach().to(weight.dtype))
        _compare(before, _outputs(model, inputs))
    except BaseException:
        for name, weight in weights.items():
            weight.copy_(kept[name])
        raise


def _weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, outside of autograd."""
    layer: Any = model.get_submodule(name)
    weight: Tensor = layer.weight
    return weight.detach()


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with preserved_rng():
        return outputs_of(running_copy(model).eval(), *to_args(inputs))


def _compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    for one, other in zip(before, after, strict=True):
        gap = apart(other.double(), one.double())
        if not gap <= rounding(one.dtype, 1e-3):
            raise VerificationError(
                f"With its adapters added to the weights the network computes something else (relative difference "
                f"{gap:.1e}); the weights are those from before. A smaller learning rate may keep the adapters small."
            )
