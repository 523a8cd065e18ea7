"""Artifacts with a card, in a folder or on the Hugging Face Hub.

What comes from there is a stranger's: only the files of an artifact are fetched, and read as any folder is
(:func:`secateur.load`). The package ``huggingface_hub`` is needed for repositories alone.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import DataError, InputError, first_line
from secateur.core.files import write_text
from secateur.cut.artifact.card import CARD, card, is_ours
from secateur.cut.artifact.folder import CONSTANTS, GRAPH, PLAN, WEIGHTS, load, save, save_what_fits
from secateur.cut.pruned import Pruned
from secateur.runtimes.packages import need

__all__ = ["FILES", "from_pretrained", "push_to_hub", "save_pretrained"]

FILES = (PLAN, WEIGHTS, GRAPH, CONSTANTS)
"""All that is fetched of a repository."""


def save_pretrained(
    pruned: Pruned,
    folder: Path,
    *,
    graph: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> Path:
    """Writes the artifact and its card; see :meth:`secateur.Pruned.save_pretrained`.

    ``source`` is what the card says to load it from, by default the folder.
    """
    whole = bool(graph)
    if graph is None:
        whole = save_what_fits(pruned, folder, "from_pretrained(…, model=YourNetwork())", 4)
    else:
        save(pruned, folder, graph=graph)
    if is_ours(folder / CARD):
        write_text(folder / CARD, card(pruned, source or str(folder), graph=whole, metadata=metadata))
    return folder


@arguments.checked
def from_pretrained(
    source: str | Path,
    model: nn.Module | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    trust: bool = False,
) -> Pruned:
    """Loads a pruned network from a folder, or from a repository of the Hugging Face Hub.

    Args:
        source: A folder (one that is there comes first), or the name of a repository: ``owner/name``.
        model: A fresh dense network of the user's class, for an artifact without its graph; see :func:`secateur.load`.
        revision: Branch, tag or commit of the repository; a commit can never change under you.
        token: Of the Hub; by default the one that is logged in.
        trust: See :func:`secateur.load`.

    Raises:
        InputError: There is no such folder or repository, no artifact in it, or huggingface_hub is not installed.
        DataError: The Hub cannot be reached.
        SecateurError: What :func:`secateur.load` raises.

    >>> from_pretrained("./nowhere")
    Traceback (most recent call last):
    secateur.core.errors.InputError: There is no folder './nowhere'. Give the folder of an artifact, or a repository ...
    """
    folder = Path(source)
    if folder.is_dir():
        return load(folder, model, trust=trust)
    name = str(source)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(
            f"There is no folder {name[:200]!r}. Give the folder of an artifact, or a repository "
            "of the Hub as owner/name."
        )
    found = _fetched(name, revision, token)
    if not (found / PLAN).exists():
        raise InputError(
            f"The repository {name!r} holds no artifact of Secateur ({PLAN} is missing). push_to_hub uploads one."
        )
    return load(found, model, trust=trust)


def _fetched(name: str, revision: str | None, token: str | bool | None) -> Path:
    need(("huggingface_hub",), "hub", f"There is no folder {name!r}, and fetching it from the Hugging Face Hub")
    import huggingface_hub

    with _hub_errors(name, revision):
        return Path(huggingface_hub.snapshot_download(name, revision=revision, token=token, allow_patterns=list(FILES)))


def push_to_hub(
    pruned: Pruned,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str | None = None,
    graph: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Uploads the artifact and its card; see :meth:`secateur.Pruned.push_to_hub`."""
    need(("huggingface_hub",), "hub", "Uploading to the Hugging Face Hub")
    import huggingface_hub

    with tempfile.TemporaryDirectory() as temporary:
        folder = save_pretrained(pruned, Path(temporary), graph=graph, metadata=metadata, source=repository)
        with _hub_errors(repository, None):
            huggingface_hub.ModelCard((folder / CARD).read_text(encoding="utf-8"))  # its YAML, as the Hub reads it
            api = huggingface_hub.HfApi(token=token)
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message or f"Pruned by Secateur: {pruned.headline}",
                allow_patterns=[*FILES, CARD],
                delete_patterns=[GRAPH, CONSTANTS],  # of an earlier upload, if this one has none
            )
    return str(url)


@contextlib.contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Says in one sentence what the Hub refused, and what to do.

    Raises:
        InputError: A name, a token or a right is wrong.
        DataError: The Hub cannot be reached, or failed.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"{name!r} is no name of a repository, which is owner/name: {first_line(error)}") from error
    except errors.GatedRepoError as error:
        raise InputError(f"The repository {name!r} is gated: ask for access on its page, and log in.") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"The repository {name!r} has no revision {revision!r}.") from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(f"{_LOG_IN} ({name!r})") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"There is no repository {name!r} on the Hub that you may read, and no folder of that name. Check the "
            "name; for a private one log in with `hf auth login`, or give token=…"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise DataError(
            f"The Hub cannot be reached for {name!r}, and this machine has no copy of it: connect (and unset "
            f"HF_HUB_OFFLINE), or give a folder. ({first_line(error)})"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            what = _LOG_IN if status == 401 else "Your token may not write there."
            raise InputError(f"{what} ({name!r}: {first_line(error)})") from error
        raise DataError(f"The Hub failed on {name!r}: {first_line(error)}") from error
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:  # no route to it, or the disk
        raise DataError(
            f"The Hub cannot be reached for {name!r}, or its files not be kept: {first_line(error)}"
        ) from error


_LOG_IN = "You are not logged in to the Hub: run `hf auth login`, or give token=…"
