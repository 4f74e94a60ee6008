"""Who is calling: the only thing about a caller that the services see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `principal` names it (`operator/<token id>`, `node/<node id>`, `anonymous`); `role` is one of
    `viewer`, `deployer`, `operator`, `admin`, `node` and `anonymous`.
    """

    principal: str
    role: str


ANONYMOUS = Caller(principal="anonymous", role="anonymous")
