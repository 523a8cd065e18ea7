"""`secateur recover`: choose, cut and repair without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.cli.commands.networks import Opened, labelled
from secateur.cli.commands.pruning import calibration, keep, refuse_taken
from secateur.core.errors import InputError
from secateur.core.progress import working
from secateur.core.types import Target
from secateur.criteria.base import of_kind
from secateur.cut.prune import prune
from secateur.cut.pruned import Pruned
from secateur.recovery import closest, prune_to
from secateur.recovery import recover as repair
from secateur.recovery.api import check_method
from secateur.recovery.tuning import check_tuning, tune

__all__ = ["recover"]


def recover(
    opened: Opened,
    out: Path,
    *,
    data: str | None,
    task: str | None = None,
    images: int,
    repairing: Mapping[str, Any],
    tuning: Mapping[str, Any] | None = None,
    criterion: str,
    aim: Mapping[str, Any],
    metric: float | None = None,
    only: Sequence[str] | None,
    ignore: Sequence[str],
) -> None:
    """Cuts by a criterion, repairs (and tunes, if there are options for that), saves, and shows what came of it.

    Raises:
        InputError: No data set, an unknown method, or a metric with several criteria.
        SecateurError: What the cut and the repair raise.
    """
    refuse_taken(out)
    check_method(repairing["method"], match_variance=repairing["match_variance"],
                 layers=repairing["layers"])  # fmt: skip
    if tuning is not None:
        check_tuning(**tuning)
    found = labelled([opened], data, opened.inputs, task=task)
    if found is None:
        raise InputError("Repair looks at training images: give --data, for instance --data cifar10:cifar-10.tar.gz.")
    x = found.sample(images)
    model, inputs = opened.model, found.sample(2)
    several = [of_kind(name.strip(), "channels").name for name in criterion.split(",")]

    def mended(cut: Pruned) -> Pruned:
        fixed = repair(cut, x, dense=model, **repairing)
        return fixed if tuning is None else tune(fixed, x, dense=model, **tuning)

    if metric is not None:
        if len(several) > 1:
            raise InputError(f"--metric tries many cuts by one criterion; got {criterion!r}.")
        fixed = prune_to(model, inputs, target=Target(metric=metric), data=found, repair=mended, criterion=several[0],
                         only=only, ignore=ignore)  # fmt: skip
        return keep(opened, fixed, out)
    with working("Choosing and cutting", after_s=0) as now:
        made = []
        for name in several:
            batches, loss = calibration(opened, data, images, task)
            now(f"Choosing and cutting by {name}")
            cut = prune(model, inputs, criterion=name, **aim, only=only, ignore=ignore, data=batches, loss=loss)
            now("Repairing")
            made.append(repair(cut, x, dense=model, **repairing))
        fixed = made[0] if len(made) == 1 else closest(made, x, dense=model)
        if tuning is not None:
            now("Tuning")
            fixed = tune(fixed, x, dense=model, **tuning)
    keep(opened, fixed, out)
