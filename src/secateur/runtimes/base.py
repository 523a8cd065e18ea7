"""What a runtime is: one class that says everything about it, registered by :func:`runtime`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import ExportError, InputError, SecateurError, first_line
from secateur.core.registry import Registry
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported
from secateur.runtimes.integer import IntegerFacts
from secateur.runtimes.packages import install_command, missing, need, version_of
from secateur.runtimes.refusals import first_words, reason
from secateur.runtimes.silence import silence

__all__ = ["RUNTIMES", "Program", "Runtime", "installed", "runtime", "title_of"]


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


class Runtime:
    """Something that runs networks: modules as they are, or files, which it can write too.

    A runtime is a subclass that sets the attributes below and overrides what it can do: :meth:`from_module` or
    :meth:`from_file`; :meth:`convert` if it writes files, :meth:`quantise` if there are int8 ones. Everybody else
    calls :meth:`open` and :meth:`write`, which check first and word what goes wrong.

    Attributes:
        name: Name in :data:`RUNTIMES`; :func:`runtime` sets it.
        title: As people call it; the name where nothing is given.
        summary: One line for listings.
        packages: What must be importable, by import name: the first runs networks, and its version is the runtime's;
            the others are needed to write files.
        int8_packages: What is needed besides to write int8 files.
        extra: The extra of Secateur that installs them; empty where they are installed by their own names.
        step: Widths in multiples of this run at full speed on x86 (measured, see docs/runtimes.md).
        suffixes: Endings of the files that it opens; those that it writes have the first.
        format: What ``secateur.export(…, to=…)`` calls its files; the name where nothing is given.
        fixed_batch: Whether its files take batches of the size of the example inputs only.
        code: Whether its files can hold code: one that is not the user's own is opened only if it is trusted.
        script: Python that runs a file without PyTorch, for bundles: imports, an empty line, and lines that open the
            file called ``FILE`` and define ``network(x)``: from an array to a list of arrays, of numbers as the network
            gives them. NumPy is ``np``. Empty where the runtime's own package needs PyTorch.
        slow_to_start: Whether the first call takes so long that it is measured only where it is named.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    int8_packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    step: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, ...]] = ()
    format: ClassVar[str] = ""
    fixed_batch: ClassVar[bool] = False
    code: ClassVar[bool] = False
    script: ClassVar[str] = ""
    slow_to_start: ClassVar[bool] = False

    # ------------------------------------------------------------------------------- what a runtime overrides

    def from_module(self, module: nn.Module, threads: int) -> Program:
        """Makes a program of a module as it is, in the mode that it is in."""
        raise NotImplementedError

    def from_file(self, file: Path, threads: int) -> Program:
        """Makes a program of a file, which is there; may raise what it likes."""
        raise NotImplementedError

    def convert(self, traced: Exported, file: Path) -> None:
        """Writes a traced network to ``file`` (and what belongs to it beside it); may raise what it likes."""
        raise NotImplementedError

    def quantise(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """Makes an int8 file, of the same inputs and outputs, of a float32 one; may raise what it likes.

        Args:
            dense: What :meth:`convert` wrote.
            calibration: Samples, by whose ranges to quantise.
            batch: The one batch size that the file takes; ``None`` for any.
            file: Where to write.
        """
        raise NotImplementedError

    def quantise_integer(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """As :meth:`quantise`, and inputs, outputs and every operator are integers, for processors without others."""
        raise NotImplementedError

    def integer_facts(self, file: Path) -> IntegerFacts:
        """What a file of :meth:`quantise_integer` says of its integers; belongs to that method."""
        raise NotImplementedError

    def write_metadata(self, file: Path, text: str) -> None:
        """Puts a text into a file that was just written, where the format has a place for it; nothing by default."""

    def read_metadata(self, file: Path) -> str | None:
        """The text that :meth:`write_metadata` put there; may raise what it likes where the file is damaged."""
        return None

    def recognises(self, file: Path) -> bool:
        """Whether a file is one of this runtime's: by its first bytes where they tell, else by its ending."""
        return file.suffix.lower() in self.suffixes

    def parts(self, file: Path) -> tuple[Path, ...]:
        """The files that a network lies in: ``file``, and the one with its weights if they are apart."""
        return (file,)

    # ------------------------------------------------------------------------------------- what everybody calls

    @property
    def modules(self) -> bool:
        """Whether it runs modules as they are, without a file."""
        return type(self).from_module is not Runtime.from_module

    @property
    def writes(self) -> bool:
        """Whether it writes files."""
        return type(self).convert is not Runtime.convert

    @property
    def int8(self) -> bool:
        """Whether it writes int8 files."""
        return type(self).quantise is not Runtime.quantise

    @property
    def integer(self) -> bool:
        """Whether it writes files that compute in integers alone."""
        return type(self).quantise_integer is not Runtime.quantise_integer

    @property
    def suffix(self) -> str:
        """The ending of the files that it writes."""
        return self.suffixes[0]

    def open(self, network: nn.Module | str | PathLike[str], threads: int = 1, *, trust: bool = False) -> Program:
        """Makes a program of a module or file.

        Args:
            network: A module, or a file that the runtime reads.
            threads: Threads inside an operator.
            trust: Whether the file may run code when it is opened (a ``.pt2`` archive can).

        Raises:
            InputError: A module where it takes files, no such file, one of another runtime, one that can hold code
                and is not trusted, a missing package, or what the runtime refuses.
        """
        if isinstance(network, nn.Module):
            if not self.modules:
                raise InputError(
                    f"{self.title} runs files, not modules; write one with "
                    f"secateur.export(model, inputs, 'network{self.suffix}')."
                )
            return self.from_module(network, threads)
        if type(self).from_file is Runtime.from_file:
            raise InputError(f"{self.title} runs modules, not files; got {str(network)!r}.")
        if self.code and not trust:
            raise InputError(
                f"{str(network)!r} is a {self.suffix} file for {self.title}, which can run any code when it is opened; "
                "it was not. If you know where it is from, use trust=True (--trust). Folders of Pruned.save() and "
                ".onnx files are safe."
            )
        file = Path(network)
        self._look_at(file)
        need(self.packages[:1], self.extra, f"Running files in {self.title}")
        try:
            return self.from_file(file, threads)
        except SecateurError:
            raise
        except Exception as error:  # each runtime has classes of its own
            raise InputError(f"{self.title} cannot open {str(file)!r}: {first_line(error)}") from error

    def _look_at(self, file: Path) -> None:
        """Checks that there is a file, and none that another runtime knows as its own.

        Raises:
            InputError: It is missing, or of another format.
        """
        if not file.is_file():
            raise InputError(f"There is no file {str(file)!r}.")
        by_ending = type(self).recognises is Runtime.recognises
        if self.recognises(file) or (by_ending and not file.suffix):  # a name without an ending says nothing
            return
        for other in (RUNTIMES[name] for name in RUNTIMES):
            if other.recognises(file):
                raise InputError(
                    f"{str(file)!r} is a file of the format {other.format!r}; {self.title} reads {self.format!r}."
                )

    def write(
        self, traced: Exported, file: Path, calibration: ExampleInputs | None = None, *, integer: bool = False
    ) -> None:
        """Writes a traced network, as int8 if there are samples to quantise with, if ``integer`` to the last number.

        Raises:
            ExportError: An operator cannot be converted (the message names it and the module that it comes from), the
                network cannot be quantised, or the runtime writes no such files.
            OSError: The file cannot be written.
        """
        if not (self.writes if calibration is None else self.int8):
            raise ExportError(f"{self.title} writes no {'int8 ' if calibration is not None else ''}files.")
        try:
            if calibration is None:
                self.convert(traced, file)
            else:
                self._write_int8(traced, file, calibration, self.quantise_integer if integer else self.quantise)
        except (ExportError, InputError, OSError):
            raise
        except Exception as error:  # each converter has classes of its own
            raise ExportError(reason(error, self.title, traced.program)) from error

    def _write_int8(
        self, traced: Exported, file: Path, calibration: ExampleInputs, quantise: Callable[..., None]
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder, silence():
            dense = Path(folder) / f"net{self.suffix}"
            self.convert(traced, dense)
            try:
                quantise(dense, calibration, None if traced.dynamic else traced.batch, file)
            except (ExportError, OSError):
                raise
            except Exception as error:
                raise ExportError(f"The quantisation failed: {first_words(error)}") from error

    def need(self, what: str, *, int8: bool = False) -> None:
        """Checks that everything is installed that runs and writes (and if ``int8`` quantises) networks.

        Args:
            what: Who asks, for the message.
            int8: Whether int8 files are to be written.

        Raises:
            InputError: A package is missing; the message holds the install command.
        """
        need((*self.packages, *(self.int8_packages if int8 else ())), self.extra, what)

    def version(self) -> str:
        """Name and version, for records: ``onnxruntime 1.31.1``."""
        return f"{self.packages[0]} {version_of(self.packages[0])}"

    def install_command(self) -> str:
        """The command that installs what it needs, and leaves the installed torch as it is."""
        return install_command(self.extra, self.packages)


RUNTIMES: Registry[Runtime] = Registry("runtime", check="secateur.runtimes.conformance:check_runtime")

_R = TypeVar("_R", bound=Runtime)


@arguments.checked
def runtime(name: str) -> Callable[[type[_R]], type[_R]]:
    """Decorator that makes one object of a class of runtimes and registers it in :data:`RUNTIMES`.

    From then on it is a runtime like those that come with Secateur: ``secateur.export`` writes files for it by their
    ending or ``to=``, ``latency(…)`` times networks in it, a recipe and a latency target can name it.

    Args:
        name: What it is called everywhere.

    Raises:
        InputError: The name, the format or the ending of what it writes is taken, or it can run nothing.

    >>> @runtime("doubled")
    ... class Doubled(Runtime):
    ...     title = "Everything twice"
    ...     def from_module(self, module, threads):
    ...         return Program(lambda inputs: inputs, module, lambda found: [2 * found])
    >>> RUNTIMES["doubled"].open(nn.ReLU())(Tensor([1.0, -1.0]))
    [tensor([2., 0.])]
    >>> del RUNTIMES._items["doubled"]
    """

    def add(kind: type[_R]) -> type[_R]:
        kind.name, kind.title, kind.format = name, kind.title or name, kind.format or name
        made = kind()
        _check(made)
        RUNTIMES.add(name, made)
        return kind

    return add


def _check(made: Runtime) -> None:
    opens = type(made).from_file is not Runtime.from_file
    if not (opens or made.modules):
        raise InputError(f"The runtime {made.name!r} can run nothing: it has neither from_module() nor from_file().")
    if opens and not (made.suffixes and all(s.startswith(".") and s == s.lower() for s in made.suffixes)):
        raise InputError(f"The runtime {made.name!r} opens files: suffixes=('.ending', …); got {made.suffixes!r}.")
    for other in (RUNTIMES[name] for name in RUNTIMES.present) if made.writes else ():
        if other.writes and (other.format == made.format or other.suffix == made.suffix):
            raise InputError(
                f"The runtime {made.name!r} writes the format {made.format!r} ({made.suffix}), and so does "
                f"{other.name!r} ({other.format!r}, {other.suffix}); give it another format and suffixes."
            )


def title_of(name: str) -> str:
    """What people call a runtime; a name that no runtime has (in a record of elsewhere) stays as it is.

    >>> title_of("onnxruntime"), title_of("abacus")
    ('ONNX Runtime', 'abacus')
    """
    found = RUNTIMES.get(name)
    return found.title if found else name


def installed(runtime: Runtime) -> bool:
    """Whether everything that the runtime needs can be imported."""
    return not missing(runtime.packages)
