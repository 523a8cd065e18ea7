"""Networks of transformers, opened without running code of whoever made them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.models.transformer.kinds import KINDS
from secateur.models.transformer.source import Source, config_of, opened, reading, transformers, unpickled
from secateur.models.weight_files import open_weight_files

__all__ = ["empty_transformer", "load_transformer"]

OPTIONS = ("kind", "dtype", "attn_implementation", "revision")
ATTENTIONS = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")


def load_transformer(name: str, classes: int | None = None, **options: Any) -> nn.Module:
    """Opens ``hf:NAME`` with its weights, in eval mode.

    Args:
        name: ``hf:FOLDER``, ``hf:FILE.gguf`` (turned back into floating-point numbers) or ``hf:OWNER/NAME``.
        classes: Of a sequence classification, where they are others than the checkpoint's: its last layer is then new.
        **options: ``kind`` (one of :data:`KINDS`; by default what the configuration says), and ``dtype``,
            ``attn_implementation`` and ``revision`` as transformers has them. Weights keep the type that they are
            stored in.

    Raises:
        InputError: No such source, a quantised one, one that needs code of its own, an unknown option, or transformers
            is not installed.
        WeightsError: The weights would have to be unpickled, or some of the network's are missing.
    """
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"option of {name}", option, OPTIONS)
    attention = options.get("attn_implementation", ATTENTIONS[0])
    if attention not in ATTENTIONS:  # another name could fetch code from the Hub
        raise UnknownNameError(
            "implementation of attention", str(attention), ATTENTIONS, argument="attn_implementation"
        )
    kind = options.pop("kind", None) or ("classification" if classes is not None else None)
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind of network", str(kind), KINDS, argument="kind")
    source = opened(name)
    config = config_of(source)
    auto = _class(source, config, kind)
    if classes is not None:
        options |= {"num_labels": classes, "ignore_mismatched_sizes": True}
    model, found = _read(source, auto, options)
    missing = _left_random(model, found, classes)
    if missing and all("pooler" in weight for weight in missing):  # sentence encoders go without
        model, found = _read(source, auto, {**options, "add_pooling_layer": False})
        missing = _left_random(model, found, classes)
    if missing:
        raise WeightsError(
            f"{name} holds no values for {len(missing)} tensors of {type(model).__name__} ({', '.join(missing[:3])}), "
            "which would be random numbers. Open it as what it was trained for: kind=… is one of "
            f"{', '.join(KINDS)}."
        )
    network: nn.Module = model.eval()
    return network


def empty_transformer(name: str) -> nn.Module:
    """The network of ``hf:FOLDER`` on the meta device, in eval mode: shapes and no values, which stay in its files.

    It is of the floating-point type that most numbers in the files have.

    Raises:
        InputError: No such folder, a quantised network, one that needs code of its own, or transformers is not
            installed.
        WeightsError: The folder holds no safetensors, or they are damaged.
    """
    source = opened(name)
    if not source.local or source.gguf:
        raise InputError(f"{name} is no folder with config.json and safetensors, which alone can stay on the disk.")
    kinds: Counter[torch.dtype] = Counter()
    for stored in open_weight_files(source.place).tensors.values():
        kinds[stored.dtype] += torch.Size(stored.shape).numel() * stored.dtype.is_floating_point
    (dtype, _), *_ = kinds.most_common(1)
    auto = _class(source, config_of(source), None)
    library = transformers()
    with reading(source, "The network"), torch.device("meta"):
        config = library.AutoConfig.from_pretrained(source.place, **source.arguments)
        model = auto(config) if issubclass(auto, library.PreTrainedModel) else auto.from_config(config)
        if (Path(source.place) / "generation_config.json").is_file() and model.can_generate():
            model.generation_config = library.GenerationConfig.from_pretrained(source.place, local_files_only=True)
    network: nn.Module = model.to(dtype).eval()
    return network


def _class(source: Source, config: dict[str, Any], kind: str | None) -> Any:
    """The class that reads the checkpoint: the one it was saved as, where transformers has it."""
    library = transformers()
    if kind is not None:
        return getattr(library, KINDS[kind])
    named = next(iter(config.get("architectures") or ()), None)
    known = getattr(library, str(named), None) if named else None
    if isinstance(known, type) and issubclass(known, library.PreTrainedModel):
        return known
    return library.AutoModelForCausalLM if source.gguf else library.AutoModel


def _read(source: Source, auto: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    library = transformers()
    before, bars = library.logging.get_verbosity(), library.utils.logging.is_progress_bar_enabled()
    library.logging.set_verbosity_error()  # it prints a table of what the loading info says
    library.logging.disable_progress_bar()  # it draws bars where there is no terminal
    safe = _dequantised(library) if source.gguf else {"use_safetensors": True}
    try:
        with reading(source, "The network"):
            model, found = auto.from_pretrained(
                source.place, output_loading_info=True, **safe, **source.arguments, **options
            )
    except InputError as error:
        if isinstance(error.__cause__, OSError) and "safetensors" in str(error.__cause__):
            raise WeightsError(unpickled(source.name, "another format than safetensors")) from error
        raise
    finally:
        library.logging.set_verbosity(before)
        if bars:
            library.logging.enable_progress_bar()
    return model, found


def _dequantised(library: Any) -> dict[str, Any]:
    """Options for a GGUF file: floating-point weights in ordinary layers, which newer releases have to be asked for."""
    kind = getattr(library, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _left_random(model: Any, found: dict[str, Any], classes: int | None) -> list[str]:
    """Tensors that the checkpoint has no values for, but for a head that is new on purpose."""
    missing = sorted(found.get("missing_keys") or ())
    new = {key for key, *_ in found.get("mismatched_keys") or ()}
    if classes is None and new:
        return sorted({*missing, *new})
    return [key for key in missing if key.rpartition(".")[0] not in _heads(model)] if classes is not None else missing


def _heads(model: Any) -> set[str]:
    """Layers behind the encoder: what a classification with other classes makes anew."""
    inner = model.base_model_prefix
    return {path for path, _ in model.named_modules() if path and path != inner and not path.startswith(f"{inner}.")}
