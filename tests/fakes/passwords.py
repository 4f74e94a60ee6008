"""Files of passwords as a registry reads them."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import crypt


def htpasswd(username: str, password: str) -> str:
    """A line of an htpasswd file, by bcrypt."""
    return f"{username}:{crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n"
