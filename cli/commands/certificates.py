"""`locci certificates`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, run

app = typer.Typer(help="Certificates that clients are shown at the edge.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="CERTIFICATE", help="Its id, as in example-net.")]
Chain = Annotated[Path, typer.Option("--chain", help="The chain in PEM, the host's own certificate first.")]
Key = Annotated[Path, typer.Option("--key", help="The private key in PEM; - for standard input.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check.")]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List certificates."""
    empty = "no certificates: `locci certificates upload NAME --chain FILE --key FILE`"
    show_list("certificates", "certificates", columns.CERTIFICATES, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(certificate: Name, output: Output = Format.TABLE) -> None:
    """Show a certificate."""
    show_one(run(lambda c: c.get(name_of("certificates", certificate))), columns.CERTIFICATES, output)


@app.command()
def upload(certificate: Name, chain: Chain, key: Key, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Upload a certificate; edges show it to clients that ask for one of its names."""
    identifier = name_of("certificates", certificate).partition("/")[2]
    params = {"certificate_id": identifier, "validate_only": dry_run, "request_id": new_request_id()}
    body = _body(chain, key)
    show([run(lambda c: c.call("POST", "certificates", params=params, body=body))], columns.CERTIFICATES, output, "")


@app.command()
def replace(certificate: Name, chain: Chain, key: Key, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Replace chain and key, as after a renewal; no connection breaks."""
    params = {"validate_only": dry_run, "request_id": new_request_id()}
    name, body = name_of("certificates", certificate), _body(chain, key)
    show([run(lambda c: c.call("PATCH", name, params=params, body=body))], columns.CERTIFICATES, output, "")


@app.command()
def order(
    certificate: Name,
    hostnames: Annotated[
        list[str], typer.Option("--hostname", help="A name in it, as in '*.example.net'; repeat it for more.")
    ],
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Have a certificate ordered and renewed, for names that no app serves by themselves."""
    identifier = name_of("certificates", certificate).partition("/")[2]
    params = {"certificate_id": identifier, "validate_only": dry_run, "request_id": new_request_id()}
    body = {"automatic": True, "hostnames": hostnames}
    show([run(lambda c: c.call("POST", "certificates", params=params, body=body))], columns.CERTIFICATES, output, "")


@app.command()
def renew(certificate: Name, output: Output = Format.TABLE) -> None:
    """Have an automatic certificate ordered anew now; the old one is shown until the new one is there."""
    name = name_of("certificates", certificate)
    show([run(lambda c: c.call("POST", f"{name}:renew", body={}))], columns.CERTIFICATES, output, "")


@app.command()
def rm(certificate: Name) -> None:
    """Remove a certificate."""
    name = name_of("certificates", certificate)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is removed")


def _body(chain: Path, key: Path) -> Json:
    return {"chain_pem": _read(chain), "private_key_pem": sys.stdin.read() if str(key) == "-" else _read(key)}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {error}", exit_code=USAGE) from error
