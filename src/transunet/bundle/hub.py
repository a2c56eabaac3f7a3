"""The hub for bundles: one file down, one folder up, and no waiting where there is no network."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transunet.bundle.readme import README
from transunet.cache import ANSWER_SECONDS, cache_folder, can_be_written, is_offline
from transunet.errors import ConfigError, first_line


def download_file(repository: str, name: str) -> Path:
    """Return the path of a file of the hub's `repository` (`user/name`), from the cache or the hub.

    Raises:
        ConfigError: when it cannot be had; the message says what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT") or None
    folder = cache_folder() / "bundles"
    writable = can_be_written(folder)
    try:
        return Path(
            hf_hub_download(
                repository,
                name,
                cache_dir=folder,
                endpoint=endpoint,
                local_files_only=is_offline()
                or not writable
                or not _answers(repository, name, endpoint),
            )
        )
    except LocalEntryNotFoundError:
        reason = (
            "it is not in the cache and the hub cannot be reached (or offline mode is on)"
            if writable
            else f"it is not in {folder}, which this user cannot write to"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = first_line(error)
    raise ConfigError(
        f"There is no folder {repository}, and {name} of the hub's {repository} cannot be had: "
        f"{reason}. Give a local bundle folder, or go online once."
    )


def _answers(repository: str, name: str, endpoint: str | None) -> bool:
    """Ask the hub once: its client's download would try for half a minute without a network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(
            hf_hub_url(repository, name, endpoint=endpoint), timeout=ANSWER_SECONDS
        )
    except (HfHubHTTPError, HFValidationError):
        raise  # an answer: there is no such repository or file
    except Exception:  # the HTTP client's errors, which share no base class over its versions
        return False
    return True


def upload_folder(repository: str, write: Callable[[Path], Any]) -> str:
    """Create `repository` where it is missing, upload what `write` writes, return its address.

    A README that is there stays.

    Raises:
        ConfigError: when the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    if is_offline():
        raise ConfigError(f"Cannot push to {repository}: offline mode is on.")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        try:
            api = HfApi()
            url = api.create_repo(repository, exist_ok=True)
            # A README on the hub may have been edited there.
            there = [README] if api.file_exists(repository, README) else None
            api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=there)
        except Exception as error:  # the client's errors have no common root but this
            raise ConfigError(
                f"Cannot push to {repository}: {error}. Check the network, the name (user/name) "
                "and that you are logged in (`hf auth login`)."
            ) from error
    return str(url)
