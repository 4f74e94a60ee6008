"""`locci-edge`: its entry point. A worker loads what it serves with, and nothing of the command line for people."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `locci-edge`."""
    if sys.argv[1:2] == ["worker"]:
        # Coloured tracebacks of structlog's: nobody sees them here, and they take 4 MB of each worker.
        sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
        from agent.edge import worker

        sys.exit(worker.main(sys.argv[2:]))
    from agent.edge.commands import cli

    cli()


if __name__ == "__main__":
    main()
