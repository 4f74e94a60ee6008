"""The control plane's HTTP/JSON API, as any client without its own library would use it."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from fleet.errors import Code, LocciError

_TIMEOUT_S: Final = 10.0


class ApiClient:
    """Calls methods of the API; one connection per call, so that threads may share a client."""

    def __init__(self, server: str, ca_pem: str, token: str) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._host, self._port, self._server = parts.hostname, parts.port or 443, server
        self._token = token
        self._tls = ssl.create_default_context(cadata=ca_pem)

    @classmethod
    def from_context(cls, path: Path) -> ApiClient:
        """A client as a context file says; OSError or ValueError when there is no such file."""
        context = json.loads(path.read_text())
        return cls(context["server"], context["ca_pem"], context["token"])

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> dict[str, Any]:
        """The answer's JSON object.

        Raises the error of a problem document (RFC 9457), or UNAVAILABLE when the server cannot be reached.
        """
        target = path + (f"?{urlencode(query)}" if query else "")
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, target, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
            answer: dict[str, Any] = json.loads(content) if content else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            message = f"{method} {self._server}{path}: {reason}"
            raise LocciError(Code.UNAVAILABLE, "SERVER_UNREACHABLE", message) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _problem(answer, response.status, f"{method} {path}")
        return answer

    def pages(self, path: str, field: str, query: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a list method, page after page."""
        token = ""
        while True:
            asked = dict(query or {}) | ({"page_token": token} if token else {})
            answer = self.call("GET", path, query=asked)
            yield from answer.get(field, [])
            token = answer.get("next_page_token", "")
            if not token:
                return


def _problem(answer: Mapping[str, Any], status: int, call: str) -> LocciError:
    code = next((code for code in Code if code.name == answer.get("code")), None)
    if code is None:
        code = next((code for code in Code if code.value.http == status), Code.INTERNAL)
    return LocciError(code, answer.get("reason", "UNKNOWN"), f"{call}: {answer.get('detail', f'status {status}')}")
