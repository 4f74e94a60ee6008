"""DNS cookies (RFC 7873) in the interoperable form of RFC 9018: a client that comes back proves its address.

The secret is the host's own; `now_s` is set by the shell, once for many queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CLIENT_BYTES: Final = 8
SERVER_BYTES: Final = 16
"""Version, three reserved bytes, time, hash (RFC 9018, section 4)."""
SECRET_BYTES: Final = 16

_VERSION: Final = b"\x01\0\0\0"
_OLDEST_S: Final = 3600
_NEWEST_S: Final = 300
_STEP_S: Final = 60
"""Cookies made within one step carry the same time, so that a resolver's next query finds its cookie made already."""
_MEMO_MAX: Final = 50_000
_MASK: Final = (1 << 64) - 1


def siphash24(key: bytes, message: bytes) -> bytes:
    """SipHash-2-4 of `message` under a key of 16 bytes, as 8 bytes in little-endian order."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    whole = len(message) & ~7
    blocks = [int.from_bytes(message[at : at + 8], "little") for at in range(0, whole, 8)]
    blocks.append(int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56)
    for block in blocks:
        v = (v[0], v[1], v[2], v[3] ^ block)
        v = _round(*_round(*v))
        v = (v[0] ^ block, v[1], v[2], v[3])
    v = (v[0], v[1], v[2] ^ 0xFF, v[3])
    for _ in range(4):
        v = _round(*v)
    return (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1 & _MASK
    v1 = (v1 << 13 | v1 >> 51) & _MASK ^ v0
    v0 = (v0 << 32 | v0 >> 32) & _MASK
    v2 = v2 + v3 & _MASK
    v3 = (v3 << 16 | v3 >> 48) & _MASK ^ v2
    v0 = v0 + v3 & _MASK
    v3 = (v3 << 21 | v3 >> 43) & _MASK ^ v0
    v2 = v2 + v1 & _MASK
    v1 = (v1 << 17 | v1 >> 47) & _MASK ^ v2
    return v0, v1, (v2 << 32 | v2 >> 32) & _MASK, v3


class CookieJar:
    """Makes and checks server cookies. The first secret makes; all of them check, so that one can be replaced."""

    def __init__(self, secrets: Sequence[bytes], now_s: int = 0):
        if not secrets or any(len(secret) != SECRET_BYTES for secret in secrets):
            raise ValueError(f"a cookie secret is {SECRET_BYTES} bytes")
        self.secrets = tuple(secrets)
        self.now_s = now_s
        self._memo: dict[bytes, bytes] = {}
        self._memo_step = 0

    @property
    def time_s(self) -> int:
        """The time in cookies that are made now."""
        return self.now_s // _STEP_S * _STEP_S

    def reply(self, client: bytes, source: bytes) -> bytes:
        """The whole option for an answer: the client's cookie and ours for the packed address `source`."""
        step = self.now_s // _STEP_S
        if step != self._memo_step or len(self._memo) >= _MEMO_MAX:
            self._memo.clear()
            self._memo_step = step
        key = client + source
        found = self._memo.get(key)
        if found is None:
            head = _VERSION + (step * _STEP_S & 0xFFFFFFFF).to_bytes(4, "big")
            made = head + siphash24(self.secrets[0], client + head + source)
            found = self._memo[key] = b"\0\x0a\0\x18" + client + made
        return found

    def is_ours(self, client: bytes, server: bytes, source: bytes) -> bool:
        """Whether a server cookie was made here for this client, and lately (RFC 9018, section 4.3)."""
        if len(server) != SERVER_BYTES or server[0] != 1:
            return False
        # Serial-number arithmetic (RFC 1982): the time wraps.
        age_s = (self.now_s - int.from_bytes(server[4:8], "big") + (1 << 31)) % (1 << 32) - (1 << 31)
        if not -_NEWEST_S <= age_s <= _OLDEST_S:
            return False
        if self._memo.get(client + source, b"")[12:] == server:
            return True
        message = client + server[:8] + source
        return any(siphash24(secret, message) == server[8:] for secret in self.secrets)
