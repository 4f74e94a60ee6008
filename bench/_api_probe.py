"""Asks the API one thing after the other until it is ended, and writes how long each answer took: DATA_DIR FILE."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

PATHS = ("/v1/apps/hello", "/v1/nodes?page_size=50", "/v1/regions", "/v1/nodes/n00007", "/v1/apps/hello/replicas")
PAUSE_S = 0.02


def main() -> None:
    """Until the process is ended."""
    context = json.loads((Path(sys.argv[1]) / "context.json").read_text())
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    server = urlsplit(context["server"])
    connection = http.client.HTTPSConnection(server.hostname or "", server.port, timeout=120, context=tls)
    headers = {"Authorization": f"Bearer {context['token']}"}
    with Path(sys.argv[2]).open("w", buffering=1) as found:
        number = 0
        while True:
            number += 1
            begun = time.monotonic()
            connection.request("GET", PATHS[number % len(PATHS)], headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"status {answer.status}")
            found.write(f"{time.monotonic() - begun:.6f}\n")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
