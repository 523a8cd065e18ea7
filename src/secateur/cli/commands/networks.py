"""Networks as the command line names them: a model name, an artifact's folder, a run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.cli.commands.show import error, say
from secateur.cli.commands.transformers import opened_transformer, task_of
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.cut.artifact import read_inputs
from secateur.models import MODELS, create, normalisation, read_onnx
from secateur.models.create import is_onnx_name
from secateur.models.darknet import Darknet
from secateur.models.random_weights import RANDOM, has_random_weights
from secateur.models.transformer import is_transformer_name
from secateur.recipe.runner import reopen
from secateur.task import Classification
from secateur.task.registry import TASKS, Request
from secateur.task.text import TEXT

if TYPE_CHECKING:
    from secateur.task import Task

__all__ = ["Opened", "labelled", "open_network", "open_run", "parse_shape", "tell_assumed", "tell_random"]

IMAGENET_SHAPE = (3, 224, 224)
_LARGEST_SAMPLE = 2**26
"""Numbers in a sample that an artifact may ask for; its record may come from anybody."""


@dataclass(frozen=True)
class Opened:
    """A network and what it can be called with.

    Attributes:
        name: What the user called it.
        model: The network.
        inputs: Two samples: of the run's task, or normal random numbers.
        images: Real samples to check an export on, if there are some.
        task: The run's, if the network comes from a run.
        more: Further inputs, of a network that takes several.
        assumed: What nobody said and was assumed, in words.
        named: Inputs by keyword, of a network that is called so.
        tokenizer: Of a network that takes tokens and brings one.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    images: Tensor | None = None
    task: Task | None = None
    more: tuple[Tensor, ...] = ()
    assumed: tuple[str, ...] = ()
    named: Mapping[str, Tensor] | None = None
    tokenizer: Any = None

    @property
    def called_with(self) -> ExampleInputs:
        """All its inputs."""
        if self.named is not None:
            return dict(self.named)
        return (self.inputs, *self.more) if self.more else self.inputs


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Reads ``3,224,224``: the shape of one sample.

    >>> parse_shape("3,32,32")
    (3, 32, 32)
    """
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.lower().replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"--input-shape wants whole numbers, like 3,224,224; got {text!r}.")
    return shape


def open_network(
    source: str, *, weights: str | None = None, shape: tuple[int, ...] | None = None, seed: int = 0,
    trust: bool = False, on_disk: bool = False,
) -> Opened:  # fmt: skip
    """Opens what ``source`` names.

    Args:
        source: A folder of `secateur run`, a folder of `Pruned.save`, an ONNX file, or a name for
            `secateur.models.create`.
        weights: A weights file, for a model name.
        shape: Shape of one sample; by default what the network is known to take.
        seed: Of random weights and inputs.
        trust: Whether a run's folder may name any code, and an artifact take any memory.
        on_disk: Whether the weights stay in their files, and the network is on the meta device; of ``hf:FOLDER`` alone.

    Raises:
        InputError: ``weights`` together with a folder; a network that cannot stay on the disk.
        SecateurError: What loading raises.
    """
    if on_disk and not is_transformer_name(source):
        raise InputError(f"--on-disk goes with hf:FOLDER, a folder with config.json and safetensors; got {source!r}.")
    folder = Path(source)
    if folder.is_dir():
        if weights is not None:
            raise InputError(f"--weights goes with a model name; {source} is a folder with weights of its own.")
        if (folder / "recipe.yaml").is_file():
            return open_run(folder, trust=trust)[-1]
        return _from_artifact(folder, shape, seed, trust)

    if is_onnx_name(source):
        return _from_onnx(source, weights, shape, seed)
    if is_transformer_name(source):
        return _from_transformers(source, weights, shape, seed, on_disk=on_disk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(source, weights=weights).eval()
    shape = shape or _known_shape(source, model)
    if shape is not None:
        return Opened(source, model, _random(shape, seed))
    guess = f"what {source} takes is not known, so an input of {_form(IMAGENET_SHAPE)} was taken (--input-shape C,H,W)"
    return Opened(source, model, _random(IMAGENET_SHAPE, seed), assumed=(guess,))


def open_run(folder: Path, *, trust: bool = False) -> list[Opened]:
    """Opens the dense network of a run and, if it has got so far, the pruned one (with that order)."""
    run = reopen(folder, trust=trust)
    images = run.task.sample(64, split="test")
    if not isinstance(images, Tensor):
        raise InputError(
            f"The network of the run in {folder} takes several inputs; open it in Python, with "
            "secateur.recipe.reopen(folder), and measure or export it there."
        )
    roles = [role for role in ("dense", "pruned") if role in run.state.models]
    return [Opened(role, run.state.models[role].eval(), images[:2], images, run.task) for role in roles]


def labelled(networks: Sequence[Opened], data: str | None, inputs: Tensor, *, task: str | None = None) -> Task | None:
    """Opens the data called ``data`` as those of a task.

    Images of a classification are normalised as the first network wants them that is known to want something.

    Args:
        networks: What will run on it.
        data: Its name; ``None`` for that of a run that a network comes from.
        inputs: Example inputs; images get their size.
        task: The kind of task; classification by default.
    """
    if data is None and task is None:
        return next((network.task for network in networks if network.task is not None), None)
    reader = next((n for n in networks if n.tokenizer is not None), None)
    if reader is not None and data is not None and (task is None or (task in TASKS and TASKS[task].texts)):
        kind = TASKS[task or task_of(reader.model)]
        return kind.open(Request(data), tokenizer=reader.tokenizer, length=inputs.shape[-1])
    if data is not None and data.startswith(TEXT) and task is None:
        raise InputError(f"{data} is plain text, and no network here brings a tokenizer: name one by hf:NAME.")
    kind, size = TASKS[task or "classification"], inputs.shape[-1] if inputs.ndim == 4 else None
    opened = kind.open(Request(data or kind.data, image_size=size))
    if not isinstance(opened, Classification):
        return opened
    found = opened.data
    known = next((k for n in networks if (k := normalisation(n.name)) and len(k[0]) == found.shape[0]), None)
    return Classification(found.with_normalisation(*known)) if known else opened


def _from_artifact(folder: Path, shape: tuple[int, ...] | None, seed: int, trust: bool) -> Opened:
    import secateur

    if not (folder / "plan.json").is_file():
        raise InputError(
            f"The folder {folder} holds neither a run (recipe.yaml) nor an artifact (plan.json). Give a "
            "model name, or a folder made by `secateur run` or `secateur prune`."
        )
    model = secateur.load(folder, trust=trust).model
    shape = shape or _recorded_shape(folder)
    if shape is None:
        raise InputError(f"--input-shape is needed for the artifact {folder}: the shape of one sample, like 3,32,32.")
    return Opened(str(folder), model, _random(shape, seed))


def _from_onnx(source: str, weights: str | None, shape: tuple[int, ...] | None, seed: int) -> Opened:
    """An ONNX file; ``shape`` is that of one sample of its first input."""
    if weights is not None:
        raise InputError(f"--weights goes with a model name; {source} holds weights of its own.")
    network = read_onnx(source, None if shape is None else (0, *shape), seed=seed)
    if not network.given:
        raise InputError(f"{source} takes no input, so nothing can be proven about it.")
    first, *more = network.example_inputs
    return Opened(source, network, first, more=tuple(more))


def _from_transformers(
    source: str, weights: str | None, shape: tuple[int, ...] | None, seed: int, *, on_disk: bool
) -> Opened:
    """A network of transformers; ``shape`` is the number of tokens of one text."""
    if weights is not None:
        raise InputError(f"--weights goes with a model name; {source} comes with its weights.")
    model, tokenizer, named = opened_transformer(source, shape, seed, on_disk=on_disk)
    return Opened(source, model, next(iter(named.values())), named=named, tokenizer=tokenizer)


def _recorded_shape(folder: Path) -> tuple[int, ...] | None:
    """Shape of one sample, from an artifact that was made with one tensor as its input.

    Raises:
        InputError: The record claims a size that no sample has.
    """
    found = read_inputs(folder)
    if not isinstance(found, Tensor) or found.ndim < 2:
        return None
    if found[0].numel() > _LARGEST_SAMPLE:
        raise InputError(
            f"{folder} was made for samples of shape {tuple(found.shape[1:])}; give a smaller --input-shape."
        )
    return tuple(found.shape[1:])


def tell_assumed(opened: Opened) -> None:
    """Says what was assumed of a network, before anything is done with it: it may be why that fails."""
    for words in opened.assumed:
        error(f"{words}.", label="Note")


def tell_random(networks: Iterable[Opened]) -> None:
    """Says which of the networks whose accuracy was shown, or is handed on, have random weights."""
    random = [network.name for network in networks if has_random_weights(network.model)]
    if random:
        say(f"Note: {', '.join(random)}: {RANDOM} (--weights takes trained ones).")


def _form(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _known_shape(name: str, model: nn.Module) -> tuple[int, ...] | None:
    """The shape of one sample, as the network says it, or what it is known for."""
    if isinstance(model, Darknet):  # its .cfg says what it takes
        return model.image
    if name.startswith("timm:"):  # timm notes what a network was made for
        sizes = getattr(model, "pretrained_cfg", None) or {}
        return tuple(sizes["input_size"]) if sizes.get("input_size") else None
    entry = MODELS.get(name)
    return None if entry is None else entry.shape


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
