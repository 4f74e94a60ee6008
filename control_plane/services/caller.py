"""Who is calling: the only thing about a caller that the services see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `principal` names it (`operators/<token id>`, `nodes/<node id>`, `anonymous`); `role` is one of
    `viewer`, `deployer`, `operator`, `admin`, `node` and `anonymous`. `scopes` are patterns of the apps that it is
    limited to; none means no limit.
    """

    principal: str
    role: str
    scopes: tuple[str, ...] = ()


ANONYMOUS = Caller(principal="anonymous", role="anonymous")
