"""Knows in which ways a request can fail; must not know what the request was for.

Every message names an address without login and says what to do.
"""

from __future__ import annotations

from buildgraph.errors import HostError, Location
from buildgraph.transport.headers import Headers


class TransportError(HostError):
    """A request did not come to a usable answer."""


class Unreachable(TransportError):
    """No answer, though it was tried as often as it makes sense."""


class Refused(TransportError):
    """We will not go there: a redirect, an address or a login that must not be followed."""


class TooLarge(TransportError):
    """The answer is longer than its cap."""


class StatusError(TransportError):
    """The server answered, with a status that is of no use; `body` is the beginning of its text."""

    def __init__(
        self,
        message: str,
        where: Location | None = None,
        hint: str | None = None,
        *,
        status: int = 0,
        headers: Headers | None = None,
        body: bytes = b"",
    ):
        super().__init__(message, where, hint)
        self.status = status
        self.headers = headers
        self.body = body


class NotFound(StatusError):
    """404 or 410."""


class Denied(StatusError):
    """401, 403 or 407."""


class Again(Exception):
    """This attempt failed and another may not; raised in this room alone, and told to `Retries`.

    `after` is how many seconds the server asked us to wait.
    """

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.after = after
