"""The one interface to everything that can run a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from os import PathLike
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.core.types import ExampleInputs

__all__ = ["RUNTIMES", "Program", "Runtime", "install_command", "installed", "missing", "need"]


@dataclass(frozen=True)
class Program:
    """A network that a runtime holds ready to run.

    What has to be done once per set of inputs (conversion, binding) is apart from the call, so that the call
    alone can be timed.

    Attributes:
        prepare: Turns inputs into what ``run`` takes; raises :class:`InputError` when they do not fit.
        run: Makes one call and returns the runtime's own outputs. This is what is timed.
        outputs: Turns those into tensors, in the order of the network's outputs.
    """

    prepare: Callable[[ExampleInputs], Any]
    run: Callable[[Any], Any]
    outputs: Callable[[Any], list[Tensor]]

    def __call__(self, inputs: ExampleInputs) -> list[Tensor]:
        """Runs the network once on ``inputs``."""
        return self.outputs(self.run(self.prepare(inputs)))


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Attributes:
        name: Name in :data:`RUNTIMES`.
        summary: One line for listings.
        format: The export format that it reads (a name in ``secateur.export.formats.FORMATS``), or ``None`` where
            it runs a module in this process.
        packages: What must be importable, by import name; the first one's version is the runtime's.
        extra: The extra of this package that installs them.
        step: Widths in multiples of this run at full speed on x86 (measured, see docs/runtimes.md).
        opener: Makes a program of a module or file, for a number of threads inside an operator; see :meth:`open`.
        modules: Whether it runs modules as they are, without a file.
        code: Whether its files can hold code: one that is not the user's own is opened only if it is trusted.
    """

    name: str
    summary: str
    format: str | None
    packages: tuple[str, ...]
    extra: str
    step: int
    opener: Callable[[nn.Module | str | PathLike[str], int], Program]
    modules: bool = False
    code: bool = False

    def open(self, network: nn.Module | str | PathLike[str], threads: int, *, trust: bool = False) -> Program:
        """Makes a program of a module or file.

        Args:
            network: A module, or a file of the runtime's format.
            threads: Threads inside an operator.
            trust: Whether the file may run code when it is opened (a ``.pt2`` archive can).

        Raises:
            InputError: A file that can hold code and is not trusted, or what the runtime refuses.
        """
        if self.code and not trust and not isinstance(network, nn.Module):
            raise InputError(
                f"{str(network)!r} is a .pt2 archive, which can run any code when it is opened; it was not. If you "
                "know where it is from, use trust=True (--trust). Folders of Pruned.save() and .onnx files are safe."
            )
        return self.opener(network, threads)

    def version(self) -> str:
        """Name and version, for records: ``onnxruntime 1.31.1``."""
        return f"{self.packages[0]} {_version(self.packages[0])}"


RUNTIMES: Registry[Runtime] = Registry("runtime")


def installed(runtime: Runtime) -> bool:
    """Whether everything that the runtime needs can be imported."""
    return not missing(runtime.packages)


def missing(packages: Sequence[str]) -> list[str]:
    """Returns those of ``packages`` (import names) that are not installed."""
    return [name for name in packages if not _found(name)]


def need(packages: Sequence[str], extra: str, what: str) -> None:
    """Checks that ``packages`` can be imported.

    Raises:
        InputError: One is missing; the message holds the install command.

    >>> need(["torch"], "onnx", "Arithmetic")
    >>> need(["no_such_package"], "onnx", "Running ONNX files")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    secateur.core.errors.InputError: Running ONNX files needs no_such_package: pip install torch==... "secateur[onnx]".
    """
    gone = missing(packages)
    if gone:
        # The pinned torch keeps pip from replacing it with another build.
        raise InputError(f"{what} needs {', '.join(gone)}: {install_command(extra)}.")


def install_command(extra: str) -> str:
    """The command that installs an extra and leaves the installed torch as it is."""
    return f'pip install torch=={_version("torch").partition("+")[0]} "secateur[{extra}]"'


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name
        return False


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "(unknown version)"
