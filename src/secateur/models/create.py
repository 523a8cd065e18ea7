"""Networks by name: built in, from torchvision or timm, or from the user's own code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.core.registry import Registry
from secateur.models._torchvision import import_torchvision
from secateur.models.alexnet import AlexNet
from secateur.models.darknet import darknet53, from_cfg, mini_yolov3, yolov3, yolov3_tiny
from secateur.models.darknet_weights import load_darknet
from secateur.models.factories import building, call, user_factory
from secateur.models.googlenet import GoogLeNet
from secateur.models.head import replace_head
from secateur.models.lenet import LeNet5, LeNet300
from secateur.models.mlp import MLP, SeriesConv
from secateur.models.mobilenetv3 import MobileNetV3
from secateur.models.onnx_file import read_onnx
from secateur.models.random_weights import note_random
from secateur.models.resnet import SmallResNet
from secateur.models.squeezenet import SqueezeNet
from secateur.models.torchvision_detector import TorchvisionDetector
from secateur.models.transformer import is_transformer_name, load_transformer
from secateur.models.unet import UNet
from secateur.models.vgg import VGG
from secateur.models.weights import load_weights

__all__ = ["MODELS", "ModelEntry", "create", "made_at_random", "normalisation"]


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of images in 0..1."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ModelEntry:
    """A built-in network.

    Attributes:
        name: What :func:`create` calls it.
        summary: One line.
        factory: Called with ``classes`` and the options.
        classes: Default number of classes.
        shape: Of one sample that it is made for: (C, H, W), or (C, steps) for series.
        normalisation: What its public weights were trained with, where there are any.
    """

    name: str
    summary: str
    factory: Callable[..., nn.Module]
    classes: int
    shape: tuple[int, ...]
    normalisation: Normalisation | None = None


MODELS: Registry[ModelEntry] = Registry("model")


def _add(
    name: str, summary: str, factory: Callable[..., nn.Module], classes: int, *shape: int,
    normalisation: Normalisation | None = None,
) -> None:  # fmt: skip
    MODELS.add(name, ModelEntry(name, summary, factory, classes, shape, normalisation))


_add("lenet300", "LeNet-300-100, fully connected", LeNet300, 10, 1, 28, 28)
_add("lenet5", "LeNet-5, Caffe form", LeNet5, 10, 1, 28, 28)
_add("alexnet", "AlexNet, ImageNet form", AlexNet, 1000, 3, 224, 224)
for _form in ("small", "large"):
    _name, _v3 = f"mobilenetv3_{_form}", partial(MobileNetV3, _form)
    _add(_name, f"MobileNetV3 {_form}, ImageNet form", _v3, 1000, 3, 224, 224)
    _add(f"{_name}_cifar", f"MobileNetV3 {_form}, without two strides", partial(_v3, strides=3), 10, 3, 32, 32)
_tiny = partial(MobileNetV3, "tiny", strides=2, in_channels=1)
_add("mobilenetv3_digits", "a tiny MobileNetV3 for 8×8 digits", _tiny, 10, 1, 8, 8)
_add("googlenet", "GoogLeNet, ImageNet form", GoogLeNet, 1000, 3, 224, 224)
_add("googlenet_cifar", "GoogLeNet, small stem", partial(GoogLeNet, cifar=True), 10, 3, 32, 32)
for _version in ("1.0", "1.1"):
    _squeeze = partial(SqueezeNet, _version)
    _add(f"squeezenet{_version}", f"SqueezeNet {_version}, ImageNet form", _squeeze, 1000, 3, 224, 224)
_add("squeezenet_cifar", "SqueezeNet 1.1, batch norm", partial(SqueezeNet, "1.1", cifar=True), 10, 3, 32, 32)
_add("darknet53", "Darknet-53, ImageNet form", darknet53, 1000, 3, 256, 256)
_add("yolov3", "YOLOv3 with Darknet-53: three maps of raw detections", yolov3, 80, 3, 416, 416)
_add("yolov3_tiny", "YOLOv3-tiny: two maps of raw detections", yolov3_tiny, 80, 3, 416, 416)
_add("mini_yolov3", "after Mini-YOLOv3, depthwise: three maps of raw detections", mini_yolov3, 80, 3, 416, 416)
_add("mlp", "linear layers with ReLU, for rows of numbers", MLP, 1, 1, 1, 10)
_add("conv_series", "convolutions over time, for windows of series", SeriesConv, 3, 3, 48)
_add("unet", "U-Net with batch norm: class scores for every pixel", UNet, 21, 3, 64, 64)
_add("vgg_digits", "VGG-7 for 8×8 digits", partial(VGG, 7, cifar=True, in_channels=1), 10, 1, 8, 8)
_wide = partial(VGG, 7, cifar=True, in_channels=1, wider=4)
_add("vgg_digits_wide", "VGG-7 for 8×8 digits, four times as wide: room to prune", _wide, 10, 1, 8, 8)
_add("resnet_digits", "ResNet-14 for 8×8 digits", partial(SmallResNet, 14, in_channels=1), 10, 1, 8, 8)
for _depth in (16, 19):
    _name = f"vgg{_depth}_bn"
    _add(_name, f"VGG-{_depth} with batch norm, ImageNet form", partial(VGG, _depth), 1000, 3, 224, 224)
    _small = partial(VGG, _depth, cifar=True)
    _add(f"{_name}_cifar", f"VGG-{_depth} with batch norm, one linear layer", _small, 10, 3, 32, 32)
for _depth in (20, 32, 44, 56, 110):
    for _option, _suffix, _what in (("A", "", "zero-padded"), ("B", "b", "1×1 convolution")):
        _resnet = partial(SmallResNet, _depth, option=_option)
        _add(
            f"resnet{_depth}{_suffix}",
            f"ResNet-{_depth} for CIFAR, {_what} shortcuts",
            _resnet,
            10,
            3,
            32,
            32,
            normalisation=IMAGENET,
        )


@arguments.checked
def normalisation(name: str) -> Normalisation | None:
    """Mean and standard deviation that a network's public weights were trained with; ``None`` where unknown.

    >>> normalisation("torchvision:resnet50")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    library, colon, rest = name.partition(":")
    if not colon:
        entry = MODELS.get(name)
        return None if entry is None else entry.normalisation
    if library == "timm":
        import_torchvision()
        import timm

        with building(name):
            known = timm.get_pretrained_cfg(rest)
        return None if known is None else (tuple(known.mean), tuple(known.std))
    return IMAGENET if library == "torchvision" else None


@arguments.checked
def create(name: str, *, classes: int | None = None, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """Builds a network.

    Args:
        name: A name of :data:`MODELS`, ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER`` or ``hf:OWNER/NAME`` (of the
            library transformers, see :func:`secateur.models.transformer.load_transformer`), ``FILE.cfg`` (Darknet's),
            ``FILE.onnx`` (see :func:`read_onnx`), or ``package.module:factory`` for a function of the user that
            returns an ``nn.Module``.
        classes: Outputs; ``None`` for the network's default. Of torchvision's detectors, which come as
            :class:`TorchvisionDetector`: kinds of objects, without the background.
        weights: A ``.safetensors``, PyTorch state-dict or (Darknet) ``.weights`` file; for torchvision and timm
            also the name of their own weights (``DEFAULT``; ``pretrained``), which those libraries download.
        **options: Passed to the factory.

    Raises:
        UnknownNameError: With the nearest names.
        WeightsError: The weights do not fit or cannot be read safely.
        InputError: An option that the factory does not take, a library that is not installed.

    >>> sum(p.numel() for p in create("resnet56").parameters())
    853018
    """
    if classes is not None and classes < 1:
        raise InputError(f"create(classes=…) is at least 1; got {classes}.")
    model = _created(name, classes, weights, options)
    if made_at_random(name, weights, options):
        note_random(model)
    return model


def made_at_random(name: str, weights: str | Path | None, options: Mapping[str, Any]) -> bool:
    """Whether :func:`create` gives random weights for these arguments; what a user's own factory does nobody knows.

    >>> made_at_random("resnet56", None, {}), made_at_random("resnet56", "r56.safetensors", {})
    (True, False)
    >>> made_at_random("mine.nets:build", None, {}), made_at_random("small.onnx", None, {})
    (False, False)
    """
    if weights is not None or is_onnx_name(name) or options.get("weights_backbone") is not None:
        return False
    return name.endswith(".cfg") or name.partition(":")[0] in ("torchvision", "timm") or ":" not in name


def _created(name: str, classes: int | None, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    if name.endswith(".cfg"):
        return _from_file(_from_cfg(name, classes, options), weights, name)
    if is_onnx_name(name):
        return _from_onnx(name, classes, weights, options)
    if is_transformer_name(name):
        return _transformer(name, classes, weights, options)
    library, colon, rest = name.partition(":")
    if not colon:
        return _from_file(_built_in(name, classes, options), weights, name)
    if library == "torchvision":
        return _torchvision(rest, classes, weights, options)
    if library == "timm":
        return _timm(rest, classes, weights, options)
    return _from_file(user_factory(library, rest, classes, options), weights, name)


def _from_file(model: nn.Module, weights: str | Path | None, name: str) -> nn.Module:
    if weights is None:
        return model
    if not _is_file(weights):
        raise WeightsError(f"There is no weights file {str(weights)!r} for {name}.")
    load = load_darknet if Path(weights).suffix == ".weights" else load_weights
    return load(model, weights)


def _from_cfg(path: str, classes: int | None, options: dict[str, Any]) -> nn.Module:
    if classes is not None or options:
        raise InputError(f"{path} says itself how many classes and which layers it has; leave classes and options out.")
    return from_cfg(path)


def is_onnx_name(name: str) -> bool:
    """Whether a network is named that lies in an ONNX file.

    >>> is_onnx_name("small.ONNX"), is_onnx_name("resnet56")
    (True, False)
    """
    return Path(name).suffix.lower() == ".onnx"


def _from_onnx(path: str, classes: int | None, weights: object, options: dict[str, Any]) -> nn.Module:
    if classes is not None or weights is not None or options.keys() - {"sizes"}:
        raise InputError(f"{path} holds its weights and says its classes itself; leave everything but sizes out.")
    return read_onnx(path, **options)


def _transformer(name: str, classes: int | None, weights: object, options: dict[str, Any]) -> nn.Module:
    if weights is not None:
        raise InputError(f"{name} comes with its weights; leave weights out.")
    return load_transformer(name, classes, **options)


def _is_file(weights: str | Path) -> bool:
    return Path(weights).is_file()


def _names_file(weights: str | Path | None) -> bool:
    """Whether ``weights`` means a file rather than the name of a library's own weights."""
    suffixes = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}
    return weights is not None and (_is_file(weights) or Path(weights).suffix in suffixes)


def _built_in(name: str, classes: int | None, options: dict[str, Any]) -> nn.Module:
    if name not in MODELS:
        hint = "Other networks: torchvision:NAME, timm:NAME, hf:NAME, package.module:factory."
        raise UnknownNameError("model", name, MODELS, hint)
    entry = MODELS[name]
    return call(entry.factory, name, {"classes": classes or entry.classes, **options})


def _torchvision(name: str, classes: int | None, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise UnknownNameError("torchvision model", name, models.list_models())
    _refuse_weights(f"torchvision:{name}", options)
    if name in models.list_models(models.detection):
        return _detector(name, classes, weights, dict(options))
    if weights is None or _names_file(weights):
        if classes is not None:
            options = {"num_classes": classes, **options}
        with building(f"torchvision:{name}"):
            made = models.get_model(name, weights=None, **options)
        return _from_file(made, weights, f"torchvision:{name}")
    known = _known_weights(name, weights)
    with building(f"torchvision:{name}"):
        model: nn.Module = models.get_model(name, weights=known, **options)
    return model if classes is None else replace_head(model, classes)


def _known_weights(name: str, weights: str | Path) -> Any:
    """torchvision's own weights by their name."""
    entries = import_torchvision().models.get_model_weights(name)
    known = [entry.name for entry in entries] + ["DEFAULT"]
    if str(weights) not in known:
        raise UnknownNameError(f"file or torchvision weights of {name}", str(weights), known)
    return entries[str(weights)]


def _detector(
    name: str, classes: int | None, weights: str | Path | None, options: dict[str, Any]
) -> TorchvisionDetector:
    """One of torchvision's detectors; its own weights for other classes too, but for what tells classes apart."""
    models = import_torchvision().models
    regions = options.pop("regions", None)
    given = {"weights_backbone": None, **({} if classes is None else {"num_classes": classes + 1}), **options}
    if weights is None or _names_file(weights):
        with building(f"torchvision:{name}"):
            made: nn.Module = models.get_model(name, weights=None, **given)
        _refuse_unknown(name, made, options)
        return TorchvisionDetector(_from_file(made, weights, f"torchvision:{name}"), regions)
    known = _known_weights(name, weights)
    with building(f"torchvision:{name}"):
        trained: nn.Module = models.get_model(name, weights=known, **options)
        if classes is not None:
            trained = _grafted(models.get_model(name, weights=None, **given), trained)
    return TorchvisionDetector(trained, regions)


def _refuse_unknown(name: str, made: nn.Module, options: dict[str, Any]) -> None:
    """torchvision's detectors take any option in silence."""
    takers = [import_torchvision().models.get_model_builder(name), type(made), type(made.transform)]
    kinds = [kind for taker in takers for kind in (taker.__mro__ if isinstance(taker, type) else (taker,))]
    known = {name for kind in kinds for name in inspect.signature(kind).parameters} - {"kwargs", "args"}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of torchvision:{name}", option, sorted(known | {"regions"}))


def _grafted(model: nn.Module, trained: nn.Module) -> nn.Module:
    """``model`` with the layers of ``trained`` that have its shapes: frozen batch norm and the like come along."""
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    fits = {key: value for key, value in trained.state_dict().items() if wanted.get(key) == value.shape}
    model.load_state_dict(fits, strict=False)  # of modules that hold others, parameters of their own
    for path, layer in _layers(trained):
        if all(f"{path}.{key}" in fits for key in layer.state_dict()):
            model.set_submodule(path, layer)
    return model


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in model.named_modules() if path and not any(module.children())]


def _timm(name: str, classes: int | None, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    import_torchvision()  # timm imports it, and would fail the way it does
    try:
        import timm
    except ImportError as error:
        raise InputError('timm is not installed: pip install "secateur[zoo]".') from error
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models(pretrained=False))
    if weights is not None and not _names_file(weights) and weights != "pretrained":
        raise InputError(
            f"timm:{name} takes weights='pretrained' or a file; got {str(weights)!r}. "
            f"Other pretrained weights have a tag in the name: timm:{name}.TAG."
        )
    _refuse_weights(f"timm:{name}", options)
    if classes is not None:
        options = {"num_classes": classes, **options}
    with building(f"timm:{name}"):
        model: nn.Module = timm.create_model(name, pretrained=weights == "pretrained", **options)
    return _from_file(model, weights if _names_file(weights) else None, f"timm:{name}")


def _refuse_weights(name: str, options: dict[str, Any]) -> None:
    """Weights come by one way, which unpickles nothing."""
    for option in ("checkpoint_path", "pretrained", "weights"):
        if option in options:
            raise InputError(f"{name} takes weights as weights=…, a file or a name, and not by the option {option!r}.")
