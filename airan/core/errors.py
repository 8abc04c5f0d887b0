"""The exception tree. Every foreign error becomes one of these at one seam, `raise ... from`.

AiranError
 +- PermanentError            trying again cannot help
 |   +- ConfigError           a configuration key or value is wrong
 |   +- InvalidInputError     an argument has the wrong shape, dtype, range or form
 |   +- NotFoundError         the named thing does not exist
 |   +- StaleGenerationError  a plan older than the applied one was offered
 |   +- ModelFileError        a model file is missing or corrupt
 |   +- PortInUseError        a port the site needs is taken
 |   +- OutOfRangeError       a watch cannot go on from there: that is no longer known
 |   +- AuthError             no, or no valid, credentials
 |       +- ForbiddenError    known, but not allowed to do this
 +- RetryableError            the same call may succeed later
     +- UnavailableError      a service of the site cannot be reached just now
     |   +- NotLeaderError    another orchestrator leads
     +- CapacityError         no capacity is free just now
     +- InUseError            the driver refuses: a process still uses the instance
"""

from __future__ import annotations


class AiranError(Exception):
    """An error airan raises on purpose: `message` names the thing, `remedy` says what to do."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(message if remedy is None else f"{message} ({remedy})")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.remedy))


def _rebuild(kind: type[AiranError], message: str, remedy: str | None) -> AiranError:
    error = kind.__new__(kind)
    AiranError.__init__(error, message, remedy=remedy)
    return error


class PermanentError(AiranError):
    """Trying again cannot help; something has to change first."""


class RetryableError(AiranError):
    """The same call may succeed later."""


class ConfigError(PermanentError):
    """A configuration key or value is wrong."""


class InvalidInputError(PermanentError, ValueError):
    """An argument has the wrong shape, dtype, range or form; `field` names it."""

    def __init__(self, field: str, problem: str, *, remedy: str | None = None) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}", remedy=remedy)


class NotFoundError(PermanentError):
    """The named thing does not exist."""


class StaleGenerationError(PermanentError):
    """A plan older than the one already applied was offered."""


class ModelFileError(PermanentError):
    """A model file is missing or its checksum is wrong."""


class PortInUseError(PermanentError):
    """A port the site needs is taken by another process."""


class AuthError(PermanentError):
    """No credentials, or none that are valid."""


class ForbiddenError(AuthError):
    """The caller is known, and its role does not allow this."""


class OutOfRangeError(PermanentError):
    """A watch cannot go on from there: what came after it is no longer known."""


class UnavailableError(RetryableError):
    """A service of the site cannot be reached just now."""


class NotLeaderError(UnavailableError):
    """Another orchestrator leads, or may lead by now."""


class CapacityError(RetryableError):
    """No capacity is free just now."""


class InUseError(RetryableError):
    """The driver refuses because a process still uses the instance."""
