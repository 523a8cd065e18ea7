"""The module back end: a copy of the user's own network, same classes, with smaller parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from secateur.core.errors import PlanError
from secateur.core.plan import Place
from secateur.graph.copies import copy_network
from secateur.graph.places import changed
from secateur.surgery.adapted import ranks_made_true
from secateur.surgery.graph import sliced_parameter
from secateur.surgery.known import refresh_attention, resize
from secateur.surgery.shorten import Shortened, drop_elements, number_anew
from secateur.surgery.substitutes import substitute

__all__ = ["prune_module"]

Keep = Mapping[str, Mapping[int, Sequence[int]]]


def prune_module(
    model: nn.Module, keep: Keep, replaced: Mapping[str, str] | None = None,
    indices: Mapping[str, Sequence[int]] | None = None, numbers: Mapping[Place, float] | None = None,
    shortened: Shortened | None = None,
) -> nn.Module:  # fmt: skip
    """Copies ``model`` with sliced parameters and buffers, and updates the sizes that known layers remember.

    Dense weights are never copied: slices take their place while the module tree is being copied.

    Args:
        model: The dense network (not touched).
        keep: Kept indices by parameter or buffer name and dimension.
        replaced: Modules that something without weights takes the place of (a removed residual branch).
        indices: New values of buffers of whole numbers that point at channels.
        numbers: New values of numbers that attributes of the user's classes hold.
        shortened: Elements that stay of lists of modules; they are numbered anew.

    Raises:
        PlanError: ``keep``, ``numbers`` or ``replaced`` names something that ``model`` does not have, or
            indices out of range.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    _check(tensors, keep)
    if strange := set(indices or {}) - set(tensors):
        raise PlanError(f"The plan renumbers {sorted(strange)[0]!r}, which this network does not have.")
    sliced: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in sliced:
            sliced[id(tensor)] = sliced_parameter(tensor, keep.get(name, {}))
        if name in (indices or {}):
            sliced[id(tensor)] = _renumbered(name, tensor, indices[name])  # type: ignore[index]
    pruned = copy_network(model, sliced, lambda t: t.detach().clone())
    for path, module in pruned.named_modules():
        resize(module, keep.get(f"{path}.weight".lstrip("."), {}))
    changed(pruned, numbers or {})
    for module in pruned.modules():
        if isinstance(module, nn.MultiheadAttention):
            refresh_attention(module)
    ranks_made_true(pruned)
    for path, instead in (replaced or {}).items():
        _replace(pruned, path, instead)
    for path, kept in (shortened or {}).items():
        held = _submodule(pruned, path)
        if not isinstance(held, nn.ModuleList) or kept[-1] >= len(held):
            raise PlanError(f"The plan keeps element {kept[-1]} of {path!r}, which this network does not have.")
    drop_elements(pruned, shortened or {})
    number_anew(pruned, shortened or {})
    return pruned


def _renumbered(name: str, tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex() or len(numbers) > len(tensor):
        raise PlanError(
            f"The plan gives {name!r} {len(numbers)} numbers; in this network it is of shape {tuple(tensor.shape)}, "
            f"{tensor.dtype}, and only a row of whole numbers can be renumbered."
        )
    return tensor.new_tensor(numbers)


def _submodule(pruned: nn.Module, path: str) -> nn.Module:
    try:
        return pruned.get_submodule(path)
    except AttributeError as error:
        raise PlanError(f"The plan changes the module {path!r}, which this network does not have.") from error


def _replace(pruned: nn.Module, path: str, instead: str) -> None:
    if not path:
        raise PlanError("The plan replaces the network itself, of which nothing would be left.")
    mode = _submodule(pruned, path).training
    pruned.set_submodule(path, substitute(instead).train(mode))


def _check(tensors: Mapping[str, Tensor], keep: Keep) -> None:
    for name, dims in keep.items():
        if name not in tensors:
            raise PlanError(f"The plan cuts {name!r}, which {len(tensors)} parameters and buffers do not include.")
        for dim, indices in dims.items():
            shape = tuple(tensors[name].shape)
            if dim >= len(shape) or (len(indices) and max(indices) >= shape[dim]):
                raise PlanError(
                    f"The plan keeps index {max(indices)} in dimension {dim} of {name!r}, whose shape is {shape}."
                )
