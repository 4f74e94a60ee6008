"""What is wrong with a delegation."""

from __future__ import annotations

from dataclasses import replace

from routing.core.delegation import Expected, Finding, Level, ParentSaid, ServerSaid, findings

NAMES = {"a.ns.x.test": frozenset({"192.0.2.1"}), "b.ns.x.test": frozenset({"192.0.2.2"})}
DS = "1 13 2 aa"
ZONE = Expected("x.test", NAMES)
PARENT = ParentSaid("198.51.100.1", "", True, frozenset(NAMES), NAMES)
SERVERS = [
    ServerSaid(name, next(iter(found)), authoritative=True, edns=True, serial=7, name_servers=frozenset(NAMES))
    for name, found in NAMES.items()
]


def said(expected: Expected, parents: list[ParentSaid], servers: list[ServerSaid]) -> list[Finding]:
    return findings(expected, parents, servers)


def only(found: list[Finding], level: Level, text: str) -> None:
    assert [one.level for one in found] == [level], found
    assert text in found[0].message


def test_all_is_well() -> None:
    only(said(ZONE, [PARENT], SERVERS), Level.OK, "delegated to its 2 name servers")
    signed = [replace(server, ds=frozenset({DS})) for server in SERVERS]
    only(said(replace(ZONE, signed=True), [replace(PARENT, ds=frozenset({DS}))], signed), Level.OK, "alike")


def test_what_servers_do_wrong() -> None:
    first, second = SERVERS
    cases = [
        (replace(second, problem="nothing came within 3 s"), Level.ERROR, "does not answer over UDP"),
        (replace(second, authoritative=False), Level.ERROR, "(lame)"),
        (replace(second, tcp_problem="refused"), Level.ERROR, "does not answer over TCP"),
        (replace(second, recursive=True), Level.WARNING, "offers recursion"),
        (replace(second, edns=False), Level.WARNING, "without EDNS"),
        (replace(second, serial=6), Level.WARNING, "different versions"),
        (replace(second, name_servers=frozenset({"c"})), Level.WARNING, "names c as servers"),
    ]
    for server, level, text in cases:
        only(said(ZONE, [PARENT], [first, server]), level, text)


def test_what_the_parent_does_wrong() -> None:
    cases = [
        (replace(PARENT, problem="it answers REFUSED"), Level.WARNING, "it answers REFUSED"),
        (replace(PARENT, delegated=False), Level.ERROR, "does not delegate"),
        (replace(PARENT, name_servers=frozenset({"ns.old.test"})), Level.ERROR, "none of which is a server"),
        (replace(PARENT, name_servers=frozenset({*NAMES, "ns.old.test"})), Level.ERROR, "does not know"),
        (replace(PARENT, name_servers=frozenset({"a.ns.x.test"})), Level.WARNING, "does not name b.ns.x.test"),
        (replace(PARENT, glue={"a.ns.x.test": NAMES["a.ns.x.test"]}), Level.ERROR, "gives no address (glue)"),
        (replace(PARENT, ds=frozenset({DS})), Level.ERROR, "no key is shown"),
    ]
    for parent, level, text in cases:
        only(said(ZONE, [parent], SERVERS), level, text)
    only(said(ZONE, [], SERVERS), Level.ERROR, "--parent")


def test_keys_and_their_parent() -> None:
    signed = [replace(server, ds=frozenset({DS})) for server in SERVERS]
    zone = replace(ZONE, signed=True)
    only(said(zone, [PARENT], signed), Level.WARNING, "has no DS record")
    only(said(zone, [replace(PARENT, ds=frozenset({"2 13 2 bb"}))], signed), Level.ERROR, "for other keys")
    both = replace(PARENT, ds=frozenset({"2 13 2 bb", DS}))
    only(said(zone, [both], signed), Level.OK, "alike")


def test_too_few_name_servers() -> None:
    one = Expected("x.test", {"a.ns.x.test": NAMES["a.ns.x.test"]})
    parent = replace(PARENT, name_servers=frozenset({"a.ns.x.test"}))
    server = replace(SERVERS[0], name_servers=frozenset({"a.ns.x.test"}))
    only(said(one, [parent], [server]), Level.WARNING, "one name server only")
    found = said(Expected("x.test", {}), [replace(PARENT, delegated=False)], [])
    assert all(finding.level is Level.ERROR for finding in found)
