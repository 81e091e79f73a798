"""What goes wrong between here and a Hugging Face hub, each as one sentence with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.model_store import RemoteFile
from scheduler.errors import CheckpointError
from scheduler.units import format_size


@contextmanager
def one_sentence(repo: str, revision: str | None, file: RemoteFile | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises over a repository, or a file of it, into CheckpointError."""
    try:
        yield
    except Exception as error:
        if not (is_hub_error(error) or isinstance(error, ValueError)):
            raise
        raise CheckpointError(_sentence(error, repo, revision, file)) from None


def is_hub_error(error: Exception) -> bool:
    """Whether an error is the hub's or the network's, and not one of this disk."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # The client library, httpx or httpx2, differs between releases of huggingface_hub; the base of
    # all its errors is a base of the hub's own.
    transport = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    return isinstance(error, (transport, HFValidationError, OfflineModeIsEnabled))


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error of the hub's carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def no_hub() -> CheckpointError:
    """The error for a server that answers, but not as a hub does."""
    return CheckpointError(
        f"{endpoint()} does not answer like a Hugging Face hub; check HF_ENDPOINT."
    )


def endpoint() -> str:
    """The hub's address, as HF_ENDPOINT or huggingface_hub says."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _sentence(error: Exception, repo: str, revision: str | None, file: RemoteFile | None) -> str:
    from huggingface_hub import errors

    what = f"{file.path} of {repo}" if file else repo
    hub = endpoint()
    sentences: list[tuple[type[Exception], str]] = [
        (
            errors.OfflineModeIsEnabled,
            f"{what} cannot be fetched, since HF_HUB_OFFLINE is set; unset it to go online.",
        ),
        (errors.HFValidationError, f"{repo!r} is no repository of a hub; expected OWNER/NAME."),
        (
            errors.GatedRepoError,
            f"{repo} is gated: accept its terms at {hub}/{repo}, then set HF_TOKEN to a token of"
            " that account (or log in with `hf auth login`).",
        ),
        (
            errors.RepositoryNotFoundError,
            f"{repo} does not exist at {hub}, or is private; check the name, or set HF_TOKEN to a"
            " token that may read it.",
        ),
        (
            errors.RevisionNotFoundError,
            f"{repo} has no revision {revision!r}; expected a branch, a tag or a commit.",
        ),
        (
            errors.EntryNotFoundError,
            f"{what} is listed by {hub}, which then does not find it; try again later.",
        ),
    ]
    known = next((text for kind, text in sentences if isinstance(error, kind)), None)
    return known or _other(error, what, hub, file)


def _other(error: Exception, what: str, hub: str, file: RemoteFile | None) -> str:
    status = status_of(error)
    if status in (401, 403):
        return f"{hub} refuses {what} (HTTP {status}); set HF_TOKEN to a token that may read it."
    if status == 429:
        return f"{hub} asks to slow down (HTTP 429); try again later, or with HF_TOKEN set."
    if status is not None:
        return f"{hub} answers HTTP {status} for {what}; try again later."
    if isinstance(error, ValueError):
        size = f" ({format_size(file.size_bytes)})" if file else ""
        return f"{what}{size} cannot be fetched: {_first_line(error)}."
    return (
        f"{hub} cannot be reached for {what} ({_first_line(error)}); check the network, or"
        " HF_ENDPOINT and the proxy settings, and run the same command to go on."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
