"""How a command ends when it does not do what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fleet.errors import Code, LocciError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 4
DENIED: Final = 5
UNREACHABLE: Final = 6
ROLLOUT_FAILED: Final = 7
INTERRUPTED: Final = 130

EXIT_CODES: Final[Mapping[int, str]] = {
    OK: "Done.",
    FAILED: "Failed for another reason than those below.",
    USAGE: "Wrong usage, a bad manifest or another argument that is refused.",
    NOT_FOUND: "What was named does not exist.",
    DENIED: "The token is missing, not valid, or not allowed to do this.",
    UNREACHABLE: "The control plane cannot be reached, or does not prove who it is.",
    ROLLOUT_FAILED: "A rollout that was waited for did not succeed.",
    INTERRUPTED: "Interrupted.",
}

_EXITS: Final = {
    Code.INVALID_ARGUMENT: USAGE,
    Code.NOT_FOUND: NOT_FOUND,
    Code.UNAUTHENTICATED: DENIED,
    Code.PERMISSION_DENIED: DENIED,
}
_NOT_SERVING: Final = {"NOT_READY", "OVERLOADED"}
_HINTS: Final = {
    Code.UNAUTHENTICATED: "log in with `locci login --server URL --ca-file FILE --token TOKEN`, "
    "or point $LOCCI_CONTEXT at a context file",
    Code.PERMISSION_DENIED: "use a token with a role that may do this",
    Code.ABORTED: "somebody else changed it meanwhile; look at it and try again",
    Code.INTERNAL: "look into the control plane's log",
}
_COLLECTIONS: Final = {
    "apps": "locci apps ls",
    "regions": "locci regions ls",
    "nodes": "locci nodes ls",
    "zones": "locci zones ls",
    "secrets": "locci secrets ls",
    "certificates": "locci certificates ls",
    "backups": "locci backup ls",
    "drills": "locci drills ls",
    "joinTokens": "locci tokens ls",
}


class Failure(Exception):  # noqa: N818
    """What went wrong, where, and what to do about it; ends the command with `exit_code`."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", exit_code: int = FAILED):
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.exit_code = exit_code
        self.retriable = False
        """Whether the connection broke, so that another try may do."""

    def text(self) -> str:
        """`error: WHAT (where)`, and the hint below it."""
        place = f" ({self.where})" if self.where else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"error: {self.what}{place}{hint}"


class ApiFailure(Failure):
    """The control plane refused a request."""

    def __init__(self, error: LocciError, where: str):
        exit_code = UNREACHABLE if error.reason in _NOT_SERVING else _EXITS.get(error.code, FAILED)
        super().__init__(error.message, where=where, hint=_hint(error), exit_code=exit_code)
        self.error = error


def _hint(error: LocciError) -> str:
    if error.code is Code.NOT_FOUND:
        collection = error.metadata.get("name", "").split("/")[0]
        listing = _COLLECTIONS.get(collection)
        return f"`{listing}` lists what there is" if listing else ""
    return "try again in a moment" if error.reason in _NOT_SERVING else _HINTS.get(error.code, "")


def unreachable(server: str, reason: str, hint: str = "") -> Failure:
    """The control plane does not answer."""
    hint = hint or "is it running, and is this its address? `locci context show` says which is used"
    return Failure(f"the control plane cannot be reached: {reason}", where=server, hint=hint, exit_code=UNREACHABLE)
