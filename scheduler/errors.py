"""The few ways glm-plan refuses, each with a sentence that says what, where, and what to do."""

from __future__ import annotations


class GlmPlanError(Exception):
    """Base of every error a user can cause or must be told about.

    The message is shown as it is: what a file or a flag put into it cannot steer a terminal or end
    a line of a log, since characters that do not print are spelled as escapes.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UserInputError(GlmPlanError):
    """A flag, argument, profile or configuration value that cannot be used."""


class CheckpointError(GlmPlanError):
    """A model checkpoint that is missing, damaged, hostile or of an unknown architecture."""


class BundleError(GlmPlanError):
    """An exported bundle that is missing, incomplete, tampered with or lacks what a plan needs."""


class PlanError(GlmPlanError):
    """A placement that cannot be made; the message states the bytes needed and available."""


class EngineError(GlmPlanError):
    """A device, backend or worker process that failed while loading or running a model.

    `device`, `blocks` (``0-22``) and `cause` are what a log needs apart; None where nobody knows.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        device: str | None = None,
        blocks: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.device, self.blocks, self.cause = device, blocks, cause


class StageFailedError(EngineError):
    """A worker that has ended too often to be started again; another plan can ask less of it."""


class BusyError(GlmPlanError):
    """More requests than the engine's queue takes; the same request may succeed later."""

    exit_code = 1


def printable(text: str) -> str:
    """A text on one line, with escapes such as \\x1b for characters that do not print."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
