"""Putting a directory on the model hub; nothing here runs unless a person names a repository."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from harness.errors import EnvironmentFault, NetworkError, UsageError


def check_repo(repo: str) -> None:
    """Refuses, before hours of work, a repository that can't be pushed to as things stand.

    Raises UsageError.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UsageError(f"{repo!r} isn't the name of a hub repository, expected OWNER/NAME.") from None
    if get_token() is None:
        raise UsageError(f"Pushing to {repo} needs a token of the hub with the right to write. Try: export HF_TOKEN=…")
    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"Pushing to {repo} needs the hub, and HF_HUB_OFFLINE is set. Try: unset HF_HUB_OFFLINE")


def push(directory: Path, repo: str) -> str:
    """Uploads a directory as a model repository, private where it is new; returns its address.

    The token comes from HF_TOKEN or the hub library's own store. Raises UsageError, NetworkError.
    """
    check_repo(repo)
    api = HfApi()
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(folder_path=directory, repo_id=repo, commit_message="Upload by uzbench")
    except HfHubHTTPError as error:
        raise _refused(repo, error, directory) from error
    except (HTTPError, OSError) as error:
        raise NetworkError(
            f"{constants.ENDPOINT} can't be reached ({type(error).__name__}). {directory} is whole: push it later."
        ) from error
    return str(address)


def _refused(repo: str, error: HfHubHTTPError, directory: Path) -> UsageError | EnvironmentFault:
    # What the server says may quote the request; only its status is repeated.
    status = error.response.status_code
    if status == 401:
        return UsageError(f"The hub doesn't know the token that pushed to {repo} (401). Try: export HF_TOKEN=…")
    if status == 403:
        return UsageError(f"The token may not write to {repo} (403). Name a repository of yours, or another token.")
    return NetworkError(f"The hub failed while {repo} was pushed ({status}). {directory} is whole: push it later.")
