"""Files of the Hugging Face hub: out of its cache, fetched, or one sentence soon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from perakit.errors import PerakitError


def fetch(what: str, name: str, files: Iterable[str], complete: Callable[[Path], bool]) -> Path:
    """A folder with `files` of the hub's repository `name`, as far as it has them.

    The hub is asked only where the cache is not enough, and once: who is offline does not wait.
    what: "model" or "tokenizer", for the message; complete: whether a folder is enough. Raises
    PerakitError where huggingface_hub (extra `hf`) or the files cannot be had.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise PerakitError(
            f"{what} {name!r} comes through huggingface_hub: pip install 'perakit[hf]', or give a"
            " checkpoint folder"
        ) from error
    wanted = list(files)
    failure: Exception | None = None
    for offline in (True, False):
        try:
            # All at once: file by file, it would ask again and again for 45 seconds
            folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
        except Exception as error:  # the hub's own, of httpx, of the system: they share no class
            failure = error
        else:
            if complete(folder):
                return folder
            failure = None
    if failure is None or isinstance(failure, HfHubHTTPError):
        reason = "the hub does not give it"
    else:
        reason = "the hub cannot be reached"
    if isinstance(failure, HFValidationError):
        raise PerakitError(
            f"{what} {name!r} is no folder, and no name that the hub could have: give a checkpoint"
            " folder"
        ) from failure
    raise PerakitError(
        f"{what} {name!r} is not in the local cache and {reason}: give a checkpoint folder"
    ) from failure
