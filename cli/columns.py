"""What tables show of each kind of thing, and in which order. The order is stable: scripts cut columns."""

from __future__ import annotations

from typing import Final

from cli import rollouts
from cli.client import Json
from cli.drill_steps import begin_s, duration_s, extent_of, fault_of, steps_of, title_of
from cli.output import Column, age, last, pairs, word, yes

REGIONS: Final[list[Column]] = [
    ("REGION", lambda r: last(r["name"])),
    ("DISPLAY NAME", lambda r: r.get("display_name", "")),
    ("LATITUDE", lambda r: f"{r.get('latitude', 0):g}"),
    ("LONGITUDE", lambda r: f"{r.get('longitude', 0):g}"),
    ("CONTINENT", lambda r: r.get("continent", "")),
    ("COUNTRY", lambda r: r.get("country", "")),
    ("READY NODES", lambda r: str(r.get("ready_nodes", 0))),
    ("NETWORKS", lambda r: ",".join(r.get("networks", []))),
]
REGION: Final[list[Column]] = [
    *REGIONS,
    ("JURISDICTIONS", lambda r: ",".join(r.get("jurisdictions", []))),
    ("BIAS", lambda r: f"{r.get('bias_km') or 0:g} km"),
    ("LOAD", lambda r: f"{r.get('load_low') or 0:g}-{r['load_high']:g}" if r.get("load_high") else ""),
    ("LABELS", lambda r: pairs(r.get("labels"))),
    ("AGE", lambda r: age(r.get("create_time"))),
]


def _roles(node: Json) -> str:
    return ",".join(word(role, "NODE_ROLE_") for role in node.get("roles", []))


def _replicas(node: Json) -> str:
    return f"{node.get('healthy_replicas', 0)}/{node.get('assigned_replicas', 0)}"


def _condition(node: Json) -> str:
    return word(node.get("condition", ""), "NODE_CONDITION_")


def _sessions(node: Json) -> str:
    lines = []
    for session in node.get("sessions", []):
        there = "connected" if session.get("connected") else f"away since {age(session.get('last_seen_time'))}"
        revisions = (
            f"sent {session['sent_revision']}, accepted {session['accepted_revision']}, "
            f"applied {session['applied_revision']}"
        )
        refused = f"; refused: {session['refused_reason']}" if session.get("refused_reason") else ""
        role = word(session.get("role", ""), "NODE_ROLE_")
        lines.append(f"{role}: {there}, epoch {session['epoch']}, {revisions}{refused}")
    return "\n".join(lines)


NODES: Final[list[Column]] = [
    ("NODE", lambda n: last(n["name"])),
    ("REGION", lambda n: last(n.get("region"))),
    ("ROLES", _roles),
    ("CONDITION", _condition),
    ("SCHEDULABLE", lambda n: yes(not n.get("cordoned"))),
    ("REPLICAS", _replicas),
    ("ADDRESSES", lambda n: ",".join(n.get("addresses", []))),
    ("VERSION", lambda n: n.get("facts", {}).get("program_version", "")),
    ("AGE", lambda n: age(n.get("create_time"))),
]


def _host_conditions(node: Json) -> str:
    """What is out of order first."""
    found = sorted(node.get("host_conditions", []), key=lambda c: (bool(c.get("ok")), c.get("type", "")))
    return "\n".join(
        f"{'ok' if c.get('ok') else 'TROUBLED'} {c.get('type', '')}: {c.get('message', '')}" for c in found
    )


def _agent_upgrade(node: Json) -> str:
    """What became of the version that its agent was told to run; nothing when that runs."""
    said = node.get("agent_upgrade") or {}
    state = word(said.get("state", ""), "STATE_").replace("-", " ")
    if not said.get("version") or state == "stayed":
        return ""
    return f"{said['version']} {state}" + (f": {said['reason']}" if said.get("reason") else "")


NODE: Final[list[Column]] = [
    *NODES,
    ("UPGRADE", _agent_upgrade),
    ("REASON", lambda n: n.get("condition_reason", "")),
    ("SINCE", lambda n: age(n.get("condition_time"))),
    ("LABELS", lambda n: pairs(n.get("labels"))),
    ("SESSIONS", _sessions),
    ("CERTIFICATE ENDS", lambda n: n.get("certificate_expire_time", "")),
    ("SYSTEM", lambda n: " ".join(str(n.get("facts", {}).get(k, "")) for k in ("os", "kernel", "architecture"))),
    ("DOCKER", lambda n: n.get("facts", {}).get("docker_version", "")),
    ("HOST", _host_conditions),
]

TOKENS: Final[list[Column]] = [
    ("TOKEN ID", lambda t: last(t["name"])),
    ("REGION", lambda t: last(t.get("region"))),
    ("ROLES", lambda t: _roles(t) or "edge"),
    ("NODE", lambda t: t.get("node_id", "")),
    ("USED BY", lambda t: last(t.get("used_by"))),
    ("EXPIRES", lambda t: t.get("expire_time", "")),
    ("AGE", lambda t: age(t.get("create_time"))),
]


def _app_replicas(app: Json) -> str:
    return f"{app.get('healthy_replicas', 0)}/{app.get('wanted_replicas', 0)}"


APPS: Final[list[Column]] = [
    ("APP", lambda a: last(a["name"])),
    ("RELEASE", lambda a: last(a.get("target_release"))),
    ("LATEST", lambda a: last(a.get("latest_release"))),
    ("HEALTHY", _app_replicas),
    ("HOSTNAMES", lambda a: ",".join(a.get("manifest", {}).get("hostnames", []))),
    ("IMAGE", lambda a: a.get("manifest", {}).get("image", "")),
    ("AGE", lambda a: age(a.get("create_time"))),
]
APP: Final[list[Column]] = [
    *APPS,
    ("STABLE", lambda a: last(a.get("stable_release"))),
    ("ROLLOUT", lambda a: last(a.get("rollout"))),
    ("APPLIED", lambda a: age(a.get("update_time"))),
    ("MAINTENANCE", lambda a: yes(a.get("maintenance"))),
    ("PROBLEMS", lambda a: "\n".join(a.get("placement_problems", []))),
]

REPLICAS: Final[list[Column]] = [
    ("REPLICA", lambda r: last(r["name"])),
    ("APP", lambda r: r.get("app", "")),
    ("REGION", lambda r: last(r.get("region"))),
    ("NODE", lambda r: last(r.get("node"))),
    ("RELEASE", lambda r: str(r.get("release", ""))),
    ("PHASE", lambda r: "stopping" if r.get("stopping") else _phase(r)),
    ("ACCEPTED", lambda r: yes(r.get("accepted"))),
    ("APPLIED", lambda r: yes(r.get("applied"))),
    ("HEALTHY", lambda r: yes(r.get("healthy"))),
    ("RESTARTS", lambda r: str(r.get("status", {}).get("restarts", 0))),
    ("SINCE", lambda r: age(r.get("status", {}).get("since"))),
    ("REASON", lambda r: r.get("status", {}).get("reason", "")),
]


def _phase(replica: Json) -> str:
    return word(replica.get("status", {}).get("phase", "REPLICA_PHASE_PENDING"), "REPLICA_PHASE_")


RELEASES: Final[list[Column]] = [
    ("RELEASE", lambda r: last(r["name"])),
    ("IMAGE", lambda r: r.get("manifest", {}).get("image", "")),
    ("PINNED", lambda r: r.get("pinned_image", "").rpartition("@")[2][:19]),
    ("SPEC HASH", lambda r: r.get("spec_hash", "")[:12]),
    ("BY", lambda r: r.get("creator", "")),
    ("AGE", lambda r: age(r.get("create_time"))),
]
ROLLOUTS: Final[list[Column]] = [
    ("ROLLOUT", lambda r: last(r["name"])),
    ("FROM", lambda r: last(r.get("from_release"))),
    ("TO", lambda r: last(r.get("to_release"))),
    ("STATE", rollouts.state),
    ("HEALTHY", lambda r: f"{r.get('healthy', 0)}/{r.get('wanted', 0)}"),
    ("AUTOMATIC", lambda r: yes(r.get("automatic_rollback"))),
    ("AGE", lambda r: age(r.get("create_time"))),
    ("REASON", lambda r: r.get("reason", "")),
]
CHANGES: Final[list[Column]] = [
    ("ACTION", lambda c: word(c.get("action", ""), "ACTION_")),
    ("APP", lambda c: str(c.get("replica", "")).partition("/replicas/")[0].removeprefix("apps/")),
    ("REPLICA", lambda c: last(c.get("replica"))),
    ("NODE", lambda c: last(c.get("node"))),
    ("FROM", lambda c: last(c.get("from_node"))),
    ("REASON", lambda c: c.get("reason", "")),
]
ZONES: Final[list[Column]] = [
    ("ZONE", lambda z: last(z["name"])),
    ("CONTACT", lambda z: z.get("contact", "")),
    ("TTL", lambda z: z.get("ttl", "")),
    ("NEGATIVE TTL", lambda z: z.get("negative_ttl", "")),
    ("SIGNED", lambda z: "yes" if z.get("dnssec") else "no"),
    ("AGE", lambda z: age(z.get("create_time"))),
]
SECRETS: Final[list[Column]] = [
    ("SECRET", lambda s: last(s["name"])),
    ("VERSIONS", lambda s: ",".join(str(v["number"]) for v in s.get("versions", []) if not v.get("destroyed"))),
    ("AGE", lambda s: age(s.get("create_time"))),
]
CERTIFICATES: Final[list[Column]] = [
    ("CERTIFICATE", lambda c: last(c["name"])),
    ("HOSTNAMES", lambda c: ",".join(c.get("hostnames", []))),
    ("ISSUER", lambda c: c.get("issuer", "")),
    ("ENDS", lambda c: c.get("expire_time", "")),
    ("ORDER", lambda c: c.get("order_time", "") if c.get("automatic") else "uploaded"),
    ("PROBLEM", lambda c: c.get("problem", "")),
    ("AGE", lambda c: age(c.get("create_time"))),
]
REGISTRIES: Final[list[Column]] = [
    ("REGISTRY", lambda r: last(r["name"])),
    ("HOST", lambda r: r.get("host", "")),
    ("USERNAME", lambda r: r.get("username", "")),
    ("MIRRORS", lambda r: ", ".join(mirror["host"] for mirror in r.get("mirrors", []))),
    ("AGE", lambda r: age(r.get("create_time"))),
]
USAGE: Final[list[Column]] = [
    ("REPLICA", lambda u: u["replica"].removeprefix("apps/").replace("/replicas/", "/")),
    ("NODE", lambda u: last(u.get("node"))),
    ("CPUS", lambda u: f"{float(u.get('cpus', 0)):.2f}"),
    ("MEMORY MIB", lambda u: f"{int(u.get('memory_bytes', 0)) / 2**20:.1f}"),
]
AUTHORITIES: Final[list[Column]] = [
    ("AUTHORITY", lambda a: last(a["name"])),
    ("STATE", lambda a: a.get("state", "").removeprefix("AUTHORITY_STATE_").lower()),
    ("TRUSTED BY", lambda a: f"{a.get('nodes_trusting', 0)}/{a.get('nodes', 0)}"),
    ("SIGNED FOR", lambda a: f"{a.get('nodes_signed', 0)}/{a.get('nodes', 0)}"),
    ("ENDS", lambda a: a.get("expire_time", "")),
    ("AGE", lambda a: age(a.get("create_time"))),
]
RECORD_SETS: Final[list[Column]] = [
    ("OWNER", lambda r: r.get("owner", "")),
    ("TYPE", lambda r: r.get("type", "")),
    ("TTL", lambda r: r.get("ttl", "")),
    ("DATA", lambda r: "; ".join(r.get("data", []))),
]
OPERATOR_TOKENS: Final[list[Column]] = [
    ("ID", lambda t: last(t["name"])),
    ("FOR", lambda t: t.get("display_name", "")),
    ("ROLE", lambda t: word(t.get("role", ""), "OPERATOR_ROLE_")),
    ("SCOPES", lambda t: ",".join(t.get("scopes", []))),
    ("UNTIL", lambda t: t.get("expire_time", "")[:19]),
    ("LAST USE", lambda t: t.get("last_use_time", "")[:19]),
    ("BY", lambda t: t.get("creator", "")),
]
AUDIT_RECORDS: Final[list[Column]] = [
    ("NO", lambda r: last(r["name"])),
    ("TIME", lambda r: r.get("time", "")[:19]),
    ("WHO", lambda r: r.get("principal", "")),
    ("ROLE", lambda r: r.get("role", "")),
    ("METHOD", lambda r: r.get("method", "")),
    ("RESOURCE", lambda r: r.get("resource", "")),
    ("CODE", lambda r: r.get("code", "")),
]
OVERRIDES: Final[list[Column]] = [
    ("TARGET", lambda o: o.get("target", "")),
    ("MODE", lambda o: word(o.get("mode", ""), "OVERRIDE_MODE_")),
    ("PERCENT", lambda o: str(o.get("percent", "") or "")),
    ("UNTIL", lambda o: o.get("expire_time", "")[:19]),
    ("BY", lambda o: o.get("creator", "")),
    ("REASON", lambda o: o.get("reason", "")),
]
EVENTS: Final[list[Column]] = [
    ("TIME", lambda e: e.get("time", "")[:19]),
    ("SEVERITY", lambda e: word(e.get("severity", ""), "SEVERITY_")),
    ("TYPE", lambda e: e.get("type", "")),
    ("SUBJECTS", lambda e: ",".join(e.get("subjects", []))),
    ("MESSAGE", lambda e: e.get("message", "")),
]
DRILLS: Final[list[Column]] = [
    ("DRILL", lambda d: last(d["name"])),
    ("FAULT", lambda d: ", ".join(fault_of(step) for step in steps_of(d.get("spec", {})))),
    ("TARGET", lambda d: ", ".join(dict.fromkeys(t for s in steps_of(d.get("spec", {})) for t in s["targets"]))),
    ("HOSTNAME", lambda d: d.get("spec", {}).get("hostname", "")),
    ("LAST RUN", lambda d: last(d.get("last_run"))),
    ("AGE", lambda d: age(d.get("create_time"))),
]


def _drill_steps(drill: Json) -> str:
    lines = []
    for step in steps_of(drill.get("spec", {})):
        span = f"{begin_s(step):g}-{begin_s(step) + duration_s(step):g} s"
        extent = f" ({extent_of(step)})" if extent_of(step) else ""
        lines.append(f"{span:<12}{title_of(step)}{extent}")
    return "\n".join(lines)


DRILL: Final[list[Column]] = [
    *DRILLS,
    ("STEPS", _drill_steps),
    ("SCHEDULE", lambda d: d.get("spec", {}).get("schedule", "")),
    ("BLOCKED", lambda d: ", ".join(d.get("spec", {}).get("blocked", []))),
]


def _marks(run: Json) -> str:
    return " ".join(f"{mark.get('stage', '')}={mark.get('after', '')}" for mark in run.get("marks", []))


DRILL_RUNS: Final[list[Column]] = [
    ("RUN", lambda r: last(r["name"])),
    ("STATE", lambda r: word(r.get("state", ""), "STATE_") or ("passed" if r.get("passed") else "failed")),
    ("PASSED", lambda r: yes(r.get("passed"))),
    ("REQUESTS", lambda r: str(r.get("requests", 0))),
    ("FAILED", lambda r: str(r.get("failed_requests", 0))),
    ("MARKS", _marks),
    ("FAILURES", lambda r: "; ".join(r.get("failures", []))),
    ("AGE", lambda r: age(r.get("create_time"))),
]


def _upgrade_counts(upgrade: Json) -> str:
    return f"{upgrade.get('running_nodes', 0)}/{upgrade.get('fleet_nodes', 0)}"


def _upgrade_nodes(upgrade: Json) -> str:
    """Those that failed first."""
    told = sorted(upgrade.get("nodes", []), key=lambda n: not n.get("failure"))
    return "\n".join(
        f"{last(n.get('node'))}: {n.get('failure') or 'told'} (before: {n.get('version_before', '')})" for n in told
    )


def _upgrade_waves(upgrade: Json) -> str:
    def text(wave: Json) -> str:
        if wave.get("regions"):
            return ",".join(last(region) for region in wave["regions"])
        return f"{wave['percent']}%" if wave.get("percent") else str(wave.get("nodes", ""))

    return " ".join(text(wave) for wave in upgrade.get("waves", [])) or "1, then region after region"


UPGRADES: Final[list[Column]] = [
    ("UPGRADE", lambda u: last(u["name"])),
    ("VERSION", lambda u: u.get("version", "")),
    ("STATE", lambda u: word(u.get("state", ""), "STATE_")),
    ("WAVE", lambda u: str(u.get("waves_begun", 0))),
    ("RUN IT", _upgrade_counts),
    ("AGE", lambda u: age(u.get("create_time"))),
    ("REASON", lambda u: u.get("reason", "")),
]
UPGRADE: Final[list[Column]] = [
    *UPGRADES,
    ("WAVES", _upgrade_waves),
    ("BY", lambda u: u.get("creator", "")),
    ("NODES", _upgrade_nodes),
]


def _steps(operation: Json) -> str:
    return f"{operation.get('steps_done', 0)}/{operation['steps']}" if operation.get("steps") else ""


BACKUPS: Final[list[Column]] = [
    ("BACKUP", lambda b: last(b["name"])),
    ("STATE", lambda b: word(b.get("state", ""), "STATE_")),
    ("AGE", lambda b: age(b.get("create_time"))),
    ("REVISION", lambda b: b.get("backed_up_revision", "")),
    ("SIZE", lambda b: b.get("size_bytes", "")),
    ("CREATOR", lambda b: last(b.get("creator", ""))),
    ("REASON", lambda b: b.get("reason", "")),
]

OPERATIONS: Final[list[Column]] = [
    ("OPERATION", lambda o: last(o["name"])),
    ("KIND", lambda o: o.get("kind", "")),
    ("STATE", lambda o: word(o.get("state", ""), "STATE_")),
    ("STEPS", _steps),
    ("AGE", lambda o: age(o.get("create_time"))),
    ("REASON", lambda o: o.get("reason", "")),
]
