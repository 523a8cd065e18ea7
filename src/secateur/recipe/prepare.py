"""What a run starts with: the data set, and the network with a head that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurError
from secateur.data import load
from secateur.models import create, normalisation, replace_head
from secateur.recipe.schema import Recipe
from secateur.recipe.steps.base import derive_seed
from secateur.recipe.steps.weights import load_weights_into

if TYPE_CHECKING:
    from secateur.data import DataSet

__all__ = ["load_data", "make_model"]


def load_data(recipe: Recipe) -> DataSet:
    """Loads the recipe's data set, normalised as the recipe says or as the pretrained weights expect."""
    config = recipe.data
    data = load(
        config.name,
        validation=config.validation,
        seed=recipe.seed,
        limit=config.limit,
        image_size=config.image_size,
    )
    known = normalisation(recipe.model.name) if recipe.model.weights is not None else None
    mean, std = known if known is not None and len(known[0]) == data.shape[0] else (data.mean, data.std)
    mean, std = config.mean or mean, config.std or std
    return data if (mean, std) == (data.mean, data.std) else data.with_normalisation(mean, std)


def make_model(recipe: Recipe, data: DataSet) -> nn.Module:
    """Builds the recipe's network with a head for the data set's classes.

    Everything random in it comes from the recipe's seed.

    Raises:
        InputError: The network does not take the images, or has no class scores to give.
        SecateurError: What `secateur.models.create` raises.
    """
    config, head = recipe.model, recipe.model.head

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "model"))
        model = create(config.name, weights=config.weights, **config.options)
    found = _classes(model, config.name, data)
    wanted = len(data.classes)
    extra = head.hidden is not None or head.pool
    if head.replace == "never" and (found != wanted or extra):
        raise InputError(
            f"{config.name} gives {found} class scores and {data.name} has {wanted} classes, but "
            "model.head.replace is never. Set it to auto."
        )
    if head.replace == "always" or found != wanted or extra:
        head_seed = derive_seed(recipe.seed, "head")
        model = replace_head(model, wanted, hidden=head.hidden, pool=head.pool, seed=head_seed)
        _classes(model, config.name, data)
    if config.adapted is not None:
        load_weights_into(model, Path(config.adapted))
    return model


def _classes(model: nn.Module, name: str, data: DataSet) -> int:
    """Number of class scores that the network gives for images of the data set."""
    images, training = torch.zeros(2, *data.shape), model.training
    try:
        with torch.no_grad():
            output = model.eval()(images)
    except SecateurError:
        raise
    except Exception as error:
        channels, height, width = data.shape
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The network {name} does not take the images of {data.name} ({channels} channels, {height}×"
            f"{width} pixels): {reason}. Choose another --model or --data, or set data.image_size."
        ) from error
    finally:
        model.train(training)
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(f"The network {name} should give class scores of shape (N, classes); it gives {got}.")
    return int(output.shape[1])


def seeds(recipe: Recipe) -> dict[str, int]:
    """The seeds of a run by purpose, for the record."""
    return {"run": recipe.seed} | {
        purpose: derive_seed(recipe.seed, purpose) for purpose in ("model", "head", "images")
    }
