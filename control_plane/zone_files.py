"""Records as people write them (RFC 1035, section 5): checked, made canonical, read from and written to zone files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.zone
import dns.zonefile

from fleet.errors import LocciError, invalid

ALIAS: Final = "ALIAS"
TYPES: Final = frozenset(
    "A AAAA CAA CNAME DS HTTPS MX NAPTR NS PTR SRV SSHFP SVCB TLSA TXT URI".split()  # noqa: SIM905
) | {ALIAS}
RECORDS_MAX: Final = 100
TTL_S_MAX: Final = 7 * 86_400
_BYTES_MAX: Final = 16_384
_SINGLE: Final = ("CNAME", ALIAS)
_LONELY: Final = "CNAME"


@dataclass(frozen=True, slots=True)
class Declared:
    """Records of one owner and type. `owner` is relative, `data` canonical with absolute names; a `ttl_s` of 0 is the
    zone's."""

    owner: str
    type: str
    ttl_s: int
    data: tuple[str, ...]

    @property
    def id(self) -> str:
        """The last part of its resource name."""
        return f"{self.type}.{self.owner}"


def absolute(owner: str, origin: str) -> str:
    """The owner's whole name, lower case, without the last dot."""
    return origin if owner == "@" else f"{owner}.{origin}"


def parse_id(text: str, field: str = "name") -> tuple[str, str]:
    """Type and owner of `{TYPE}.{owner}`. Raises INVALID_ARGUMENT."""
    kind, dot, owner = text.partition(".")
    if not dot or not owner:
        raise invalid(field, f"{field}: {text!r} is not of the form TYPE.owner, as in MX.@ or TXT._dmarc")
    if kind not in TYPES:
        known = ", ".join(sorted(TYPES))
        raise invalid(field, f"{field}: {kind!r} is no type that is served here; known are {known}")
    return kind, owner


def check(origin: str, kind: str, owner: str, ttl_s: int, data: Iterable[str], field: str = "record_set") -> Declared:
    """The records in canonical form. Raises INVALID_ARGUMENT that names what is wrong."""
    root = dns.name.from_text(origin)
    owner = _owner(owner, root, field)
    if not 0 <= ttl_s <= TTL_S_MAX:
        raise invalid(f"{field}.ttl", f"{field}.ttl: {ttl_s} s must be at most 7 days")
    if owner == "@" and kind in (_LONELY, "NS", "DS"):
        why = {
            _LONELY: "the zone's own name has other records; use ALIAS",
            "NS": "the zone's name servers are the nodes with the role dns",
            "DS": "DS records of a zone belong to its parent",
        }[kind]
        raise invalid(f"{field}.name", f"{field}.name: {kind} cannot be at the zone's own name: {why}")
    texts = list(data)
    if not texts or len(texts) > RECORDS_MAX or (kind in _SINGLE and len(texts) != 1):
        most = 1 if kind in _SINGLE else RECORDS_MAX
        raise invalid(f"{field}.data", f"{field}.data: {len(texts)} records of type {kind}; give 1 to {most}")
    found = [_data(kind, text, root, f"{field}.data[{index}]") for index, text in enumerate(texts)]
    if len(set(found)) != len(found):
        raise invalid(f"{field}.data", f"{field}.data: the same record twice")
    if sum(map(len, found)) > _BYTES_MAX:
        raise invalid(f"{field}.data", f"{field}.data: more than {_BYTES_MAX} characters in one set")
    return Declared(owner, kind, ttl_s, tuple(found))


def _owner(owner: str, root: dns.name.Name, field: str) -> str:
    try:
        name = root if owner == "@" else dns.name.from_text(owner.lower(), None).derelativize(root)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise invalid(f"{field}.name", f"{field}.name: {owner!r} is no name: {error}") from error
    relative = name.relativize(root)
    text = relative.to_text()
    if not name.is_subdomain(root) or "\\" in text or not text.isascii():
        message = f"{field}.name: {owner!r} is no name within {root.to_text(omit_final_dot=True)}"
        raise invalid(f"{field}.name", message)
    if any(label == b"*" for label in relative.labels[1:]) or b"" in relative.labels:
        raise invalid(f"{field}.name", f"{field}.name: {owner!r}: `*` stands for the first label only")
    return text


def _data(kind: str, text: str, root: dns.name.Name, field: str) -> str:
    try:
        read = "CNAME" if kind == ALIAS else kind
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(read), text, root, relativize=False)
        rdata.to_wire()
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise invalid(field, f"{field}: {text!r} is no {kind} record: {error}") from error
    if isinstance(rdata, dns.rdtypes.ANY.CNAME.CNAME):
        return rdata.target.to_text().lower()
    return rdata.to_text()


def conflict(declared: Declared, others: Mapping[str, Declared], hostnames: Iterable[str], origin: str) -> str:
    """Why a set cannot stand beside the others of its zone, in words; empty when it can. `others` are by id."""
    same_owner = [o for o in others.values() if o.owner == declared.owner and o.type != declared.type]
    if declared.type == _LONELY and same_owner:
        return f"{declared.owner} has {same_owner[0].type} records: a CNAME stands alone (RFC 1034, section 3.6.2)"
    if any(o.type == _LONELY for o in same_owner):
        return f"{declared.owner} has a CNAME record, which stands alone (RFC 1034, section 3.6.2): remove it first"
    addressed = {"A", "AAAA", ALIAS, _LONELY, "NS"}
    name = absolute(declared.owner, origin)
    if declared.type in addressed and name in hostnames:
        return f"{name} is an app's hostname: its addresses are those of the app"
    if ALIAS in (declared.type, *(o.type for o in same_owner)) and declared.type in ("A", "AAAA", ALIAS):
        other = next((o.type for o in same_owner if o.type in ("A", "AAAA", ALIAS)), "")
        if other:
            return f"{declared.owner} has {other} records: an ALIAS has the addresses of its target instead"
    return ""


def read_file(content: str, origin: str) -> tuple[list[Declared], list[str]]:
    """The record sets of a zone file, and what was left out. Raises INVALID_ARGUMENT with the line of an error."""
    root = dns.name.from_text(origin)
    try:
        zone = dns.zone.from_text(content, root, relativize=False, check_origin=False, allow_include=False)
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise invalid("content", f"content: {error}") from error
    declared, skipped = [], []
    for name, node in sorted(zone.nodes.items()):
        for rdataset in node.rdatasets:
            kind = dns.rdatatype.to_text(rdataset.rdtype)
            owner = name.relativize(root).to_text() if isinstance(name, dns.name.Name) else str(name)
            if name == root and kind in ("SOA", "NS"):
                skipped.append(f"{kind} of {origin}: it follows from the fleet")
                continue
            try:
                if kind not in TYPES:
                    raise invalid("content", f"type {kind} is not served here")
                texts = [rdata.to_text() for rdata in rdataset]
                declared.append(check(origin, kind, owner, min(rdataset.ttl, TTL_S_MAX), texts, "content"))
            except LocciError as error:
                skipped.append(f"{kind} of {absolute(owner, origin)}: {error.message}")
    return declared, skipped


def write_file(
    origin: str,
    soa: str,
    ttl_s: int,
    servers: Mapping[str, Iterable[str]],
    sets: Iterable[Declared],
    apps: Iterable[str],
) -> str:
    """A zone file. `servers` are name servers (absolute, without the last dot) with their addresses."""
    out = io.StringIO()
    out.write(f"$ORIGIN {origin}.\n$TTL {ttl_s}\n@ SOA {soa}\n")
    for server in servers:
        out.write(f"@ NS {server}.\n")
    for server, addresses in servers.items():
        for address in addresses:
            out.write(f"{server}. {'AAAA' if ':' in address else 'A'} {address}\n")
    for declared in sorted(sets, key=lambda d: (d.owner != "@", d.owner, d.type)):
        ttl = f"{declared.ttl_s} " if declared.ttl_s else ""
        mark = "; " if declared.type == ALIAS else ""
        for text in declared.data:
            out.write(f"{mark}{declared.owner} {ttl}{declared.type} {text}\n")
    for app in apps:
        out.write(f"; {app}. is an app's hostname: its addresses depend on who asks\n")
    return out.getvalue()
