"""What a run starts with: the task, and the network with a head that fits it."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurError, UnknownNameError
from secateur.core.types import ExampleInputs, call
from secateur.graph.copies import deep_copy
from secateur.models import create, normalisation, replace_head
from secateur.models.factories import user_object
from secateur.models.transformer import is_transformer_name, kind_named
from secateur.recipe.schema import HeadConfig, Recipe, TaskConfig
from secateur.recipe.steps.base import STEPS, derive_seed
from secateur.recipe.steps.weights import load_weights_into
from secateur.task import Classification, Task, as_task, try_task
from secateur.task.batch import shapes
from secateur.task.registry import TASKS, Request
from secateur.task.text import TASK_OF_KIND, TEXT

if TYPE_CHECKING:
    from secateur.data import DataSet

__all__ = ["NOTHING", "Given", "make_model", "open_task", "seeds"]


@dataclass(frozen=True)
class Given:
    """What was handed over from Python, in place of what a recipe names.

    Attributes:
        model: The network as the run begins; it stays as it is, the run works on a copy.
        task: Data, loss and metrics.
    """

    model: nn.Module | None = None
    task: Task | None = None


NOTHING = Given()


def open_task(recipe: Recipe, given: Given = NOTHING) -> Task:
    """Opens the recipe's task with its data; images normalised as the recipe says or as pretrained weights expect.

    Raises:
        InputError: It was handed over from Python when the run began, and is not now; or it does not take its options.
        SecateurError: What opening its data raises.
    """
    if given.task is not None:
        return given.task
    config = _of_texts(recipe)
    if config.given:
        raise InputError(
            f"The task {config.name} of this run was handed over from Python: go on there, with "
            "secateur.resume(folder, task=…)."
        )
    if ":" in config.name:
        return _users(config.name, config.options)
    kind = TASKS[config.name]
    request = Request(
        recipe.data.name or kind.data, recipe.data.validation, recipe.data.limit, recipe.data.image_size, recipe.seed
    )
    try:
        task = kind.open(request, **config.options)
    except TypeError as error:
        raise _misfit(config.name, str(error)) from error
    return _normalised(recipe, task) if isinstance(task, Classification) else task


def _of_texts(recipe: Recipe) -> TaskConfig:
    """The task, of texts if the network is one of transformers: what it is for, with its own tokenizer."""
    config, model = recipe.task, recipe.model.name
    if not is_transformer_name(model) or ":" in config.name:
        return config
    name, options = config.name, config.options
    if config == TaskConfig() and (recipe.data.name or "").startswith(TEXT):
        name = TASK_OF_KIND[recipe.model.options.get("kind") or kind_named(model)]
    if name in TASKS and TASKS[name].texts and "tokenizer" not in options:
        options["tokenizer"] = model
    return TaskConfig(name=name, **options)


def _misfit(name: str, said: str) -> InputError:
    """Words for options that a built-in task does not take: Python's own name the class and the option."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", said)
    every: list[type[Task]] = [Task]
    for one in every:
        every += one.__subclasses__()
    kind = next((one for one in every if found is not None and one.__name__ == found[1]), None)
    if found is None or kind is None:
        return InputError(f"The task {name} does not take its options: {said}.")
    known = [option for option in inspect.signature(kind.__init__).parameters if option not in ("self", "data")]
    return UnknownNameError(f"option of the task {name}", found[2], known)


def _users(name: str, options: dict[str, Any]) -> Task:
    module, _, attribute = name.partition(":")
    task = user_object(module, attribute, options)
    if not isinstance(task, Task):
        raise InputError(f"{name} gives {type(task).__name__}, wanted a secateur.Task.")
    return task


def _normalised(recipe: Recipe, task: Classification) -> Classification:
    config, data = recipe.data, task.data
    known = normalisation(recipe.model.name) if recipe.model.weights is not None else None
    mean, std = known if known is not None and len(known[0]) == data.shape[0] else (data.mean, data.std)
    mean, std = config.mean or mean, config.std or std
    same = (mean, std) == (data.mean, data.std)
    return task if same else Classification(data.with_normalisation(mean, std))


def make_model(recipe: Recipe, task: Task | DataSet, given: Given = NOTHING) -> nn.Module:
    """Builds the recipe's network, with a head for the classes or labels of a task that has them.

    Everything random in it comes from the recipe's seed.

    Raises:
        InputError: The network does not take the inputs, or gives what loss or metrics do not take.
        SecateurError: What `secateur.models.create` raises.
    """
    task = as_task(task)
    model = _built(recipe, task, given)
    if task.outputs is not None:
        model = _headed(model, recipe, task, task.outputs)
    elif recipe.model.head != HeadConfig():
        raise InputError(f"model.head is for class scores; leave it out for the task {task.name}.")
    if recipe.model.adapted is not None:
        load_weights_into(model, Path(recipe.model.adapted))
    if not isinstance(task, Classification):
        task.source("test")
        trains = any(step.kind not in STEPS or STEPS[step.kind].trains for step in recipe.steps)
        try_task(task, model, train=trains)
    return model


def _built(recipe: Recipe, task: Task, given: Given) -> nn.Module:
    config = recipe.model
    if given.model is not None:
        return deep_copy(given.model)
    if config.given:
        raise InputError(
            f"The network {config.name} of this run was handed over from Python: go on there, with "
            "secateur.resume(folder, model=…)."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "model"))
        return create(config.name, weights=config.weights, **{**task.options(config.name), **config.options})


def _headed(model: nn.Module, recipe: Recipe, task: Task, wanted: int) -> nn.Module:
    config, head = recipe.model, recipe.model.head
    inputs = torch.zeros(2, *task.data.shape) if isinstance(task, Classification) else task.sample(2)
    found = _classes(model, config.name, task, inputs)
    extra = head.hidden is not None or head.pool
    if head.replace == "never" and (found != wanted or extra):
        raise InputError(
            f"{config.name} gives {found} class scores and {_data_name(task)} has {wanted} classes, but "
            "model.head.replace is never. Set it to auto."
        )
    if head.replace == "always" or found != wanted or extra:
        head_seed = derive_seed(recipe.seed, "head")
        model = replace_head(model, wanted, hidden=head.hidden, pool=head.pool, seed=head_seed)
        _classes(model, config.name, task, inputs)
    return model


def _sizes(inputs: ExampleInputs) -> str:
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        return shapes(inputs)
    channels, height, width = inputs.shape[1:]
    return f"{channels} channels, {height}×{width} pixels"


def _data_name(task: Task) -> str:
    return str(getattr(getattr(task, "data", None), "name", task.name))


def _classes(model: nn.Module, name: str, task: Task, inputs: ExampleInputs) -> int:
    """Number of class scores that the network gives for images of the data set."""
    training = model.training
    try:
        with torch.no_grad():
            output = call(model.eval(), inputs)
    except SecateurError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The network {name} does not take the {task.unit}s of {_data_name(task)} ({_sizes(inputs)}): {reason}. "
            "Choose another --model or --data, or set data.image_size."
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
