"""The real command line against the real control plane, each a process."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml

from fleet.enrol import parse_token
from tests.fakes.authority import Authority
from tests.fakes.ports import free_port
from tests.integration.http.conftest import CommandLine, RealServer

MANIFEST = "name: hello\nimage: 127.0.0.1:1/hello:1\nports:\n  - container_port: 80\nreadiness:\n  http: {path: /}\n"


@pytest.fixture
def region(locci: CommandLine) -> str:
    name = f"r{uuid.uuid4().hex[:8]}"
    done = locci("regions", "create", name, "--lat", "50", "--lon", "8.5", "--country", "de", "--network", "10.0.0.0/8")
    assert done.returncode == 0, done.stderr
    return name


def test_regions_are_made_listed_shown_and_removed(locci: CommandLine, region: str) -> None:
    (found,) = [r for r in json.loads(locci("regions", "ls", "-o", "json").stdout) if r["name"] == f"regions/{region}"]
    assert (found["longitude"], found["country"], found["networks"]) == (8.5, "DE", ["10.0.0.0/8"])
    assert yaml.safe_load(locci("regions", "show", region, "-o", "yaml").stdout)["latitude"] == 50.0
    listed = locci("regions", "ls").stdout.splitlines()
    assert listed[0].split("  ")[0] == "REGION"
    again = locci("regions", "create", region, "--lat", "1", "--lon", "1")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(f"error: regions/{region} exists")
    assert locci("regions", "rm", region).returncode == 0
    gone = locci("regions", "show", region)
    assert gone.returncode == 4
    assert "hint: `locci regions ls` lists what there is" in gone.stderr


def test_a_purge_says_what_is_wrong(locci: CommandLine) -> None:
    nothing = locci("purge", "hello")
    assert (nothing.returncode, "one of --url, --prefix, --tag and --all" in nothing.stderr) == (2, True)
    both = locci("purge", "hello", "--all", "--tag", "news")
    assert both.returncode == 2
    missing = locci("purge", "no-such-app", "--tag", "news", "--soft")
    assert (missing.returncode, "apps/no-such-app" in missing.stderr) == (4, True)


def test_a_token_is_alone_on_standard_output(locci: CommandLine, region: str) -> None:
    done = locci("tokens", "create", "--region", region, "--role", "edge", "--role", "dns", "--ttl", "10m")
    assert done.returncode == 0, done.stderr
    parsed = parse_token(done.stdout.strip())
    assert "locci agent join --server https://127.0.0.1" in done.stderr
    listed = locci("tokens", "ls")
    assert parsed.id in listed.stdout
    assert parsed.secret not in listed.stdout
    assert locci("tokens", "rm", parsed.id).returncode == 0
    assert locci("tokens", "create", "--region", region, "--role", "boss").returncode == 2
    assert locci("tokens", "create", "--region", region, "--ttl", "soon").returncode == 2


def test_records_and_zone_files(locci: CommandLine, region: str, tmp_path: Path) -> None:
    zone = f"{region}.example.net"
    assert locci("zones", "create", zone).returncode == 0
    done = locci("records", "set", zone, "@", "mx", "10 mail", "20 mail.example.org.", "--ttl", "5m")
    assert done.returncode == 0, done.stderr
    assert f"10 mail.{zone}.; 20 mail.example.org." in done.stdout
    refused = locci("records", "set", zone, "@", "cname", "www")
    assert (refused.returncode, "use ALIAS" in refused.stderr) == (2, True)
    assert locci("records", "set", zone, "www", "cname", "@").returncode == 0
    beside = locci("records", "set", zone, "www", "a", "192.0.2.1")
    assert (beside.returncode, "stands alone" in beside.stderr) == (1, True)
    file = tmp_path / "zone"
    file.write_text("$TTL 60\n@ NS ns1\nmail A 192.0.2.9\nwww CNAME mail\n")
    plan = locci("zones", "import", zone, str(file), "--replace", "--dry-run")
    assert plan.stdout.split() == ["+", "A.mail", "~", "CNAME.www", "-", "MX.@"]
    assert "left out: NS" in plan.stderr
    assert len(json.loads(locci("records", "ls", zone, "-o", "json").stdout)) == 2
    assert locci("zones", "import", zone, str(file), "--replace").returncode == 0
    assert {r["type"] for r in json.loads(locci("records", "ls", zone, "-o", "json").stdout)} == {"A", "CNAME"}
    exported = locci("zones", "export", zone)
    assert exported.returncode == 0, exported.stderr
    assert "mail 60 A 192.0.2.9" in exported.stdout
    file.write_text("www A not-an-address\n")
    broken = locci("zones", "import", zone, str(file))
    assert broken.returncode == 2
    assert "content" in broken.stderr
    assert locci("records", "rm", zone, "www", "cname").returncode == 0
    assert locci("records", "show", zone, "www", "cname").returncode == 4
    assert locci("zones", "rm", zone).returncode == 0
    assert locci("records", "ls", zone).returncode == 4


def test_orders_that_overrule_the_evidence(locci: CommandLine, region: str) -> None:
    target = f"regions/{region}"
    drained = locci("routing", "override", target, "drain", "--percent", "30", "--for", "10m", "--reason", "upgrade")
    assert drained.returncode == 0, drained.stderr
    (row,) = [o for o in json.loads(locci("routing", "overrides", "-o", "json").stdout) if o["target"] == target]
    assert (row["mode"], row["percent"], row["reason"]) == ("OVERRIDE_MODE_DRAIN", 30, "upgrade")
    slow = locci("routing", "override", target, "drain", "--percent", "100", "--over", "2m", "--for", "10m")
    assert slow.returncode == 0, slow.stderr
    (row,) = [o for o in json.loads(locci("routing", "overrides", "-o", "json").stdout) if o["target"] == target]
    assert row["over"] == "120s"
    assert locci("routing", "override", target, "out").returncode == 0
    assert sum(target in line for line in locci("routing", "overrides").stdout.splitlines()) == 1
    for words, says in (
        ((target, "drain"), "1 to 100"),
        ((target, "out", "--percent", "5"), "nothing else takes it"),
        ((target, "in", "--for", "60d"), "30 days"),
        ((target, "out", "--over", "1m"), "only a drain takes it"),
        ((target, "drain", "--percent", "5", "--over", "6m", "--for", "10m"), "at most half"),
        (("apps/x", "in"), "nodes/{node}"),
    ):
        refused = locci("routing", "override", *words)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
    assert locci("routing", "override", "nodes/nobody", "out").returncode == 4
    assert locci("routing", "release", target).returncode == 0
    assert locci("routing", "release", target).returncode == 4


def test_operators_and_the_audit(locci: CommandLine, region: str, tmp_path: Path) -> None:
    made = locci("operators", "create", "ci", "--role", "deployer", "--scope", "apps/shop-*", "--ttl", "1d")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    identifier = token.split(".")[1]
    (row,) = [t for t in json.loads(locci("operators", "ls", "-o", "json").stdout) if identifier in t["name"]]
    assert (row["role"], row["scopes"]) == ("OPERATOR_ROLE_DEPLOYER", ["apps/shop-*"])
    assert token not in locci("operators", "ls").stdout
    assert locci("operators", "create", "x", "--role", "king").returncode == 2
    assert locci("operators", "rm", identifier).returncode == 0
    assert locci("operators", "rm", identifier).returncode == 4
    listed = locci("audit", "ls", "--filter", f'resource = "operatorTokens/{identifier}"', "-o", "json")
    assert [r["code"] for r in json.loads(listed.stdout)] == ["OK", "NOT_FOUND"]
    assert "whole: " in locci("audit", "verify").stdout
    file = tmp_path / "audit.jsonl"
    file.write_text(locci("audit", "export").stdout)
    assert locci("audit", "verify", "--file", str(file)).returncode == 0
    file.write_text(file.read_text().replace("OperatorTokenService.CreateOperatorToken", "AppService.ApplyApp", 1))
    broken = locci("audit", "verify", "--file", str(file))
    assert (broken.returncode, "was changed" in broken.stderr) == (1, True)


def test_the_report_of_a_drill(locci: CommandLine, region: str, server: RealServer, tmp_path: Path) -> None:
    spec = ["--fault", "region-cut", "--target", f"regions/{region}", "--hostname", "www.example.net"]
    assert locci("drills", "create", region, *spec).returncode == 0
    assert locci("drills", "report", region).returncode == 4
    marks = [("fault", 0.0), ("detected", 1.2), ("withdrawn", 1.8), ("rerouted", 3.5), ("healed", 5), ("restored", 8)]
    for late in (0, 4):
        run = {
            "marks": [{"stage": s, "after": f"{a + (late if s == 'withdrawn' else 0)}s"} for s, a in marks],
            "requests": 100,
            "failed_requests": 7 + late,
        }
        server.post(f"/v1/drills/{region}/runs", run)
    page = tmp_path / "report.html"
    done = locci("drills", "report", region, "--run", "1", "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert "<svg" in page.read_text()
    assert "was signed by this fleet's CA" in locci("drills", "report", region, "--run", "1", "--verify").stderr
    missed = locci("drills", "report", region)
    assert missed.returncode == 1
    assert "missed: withdrawn" in missed.stdout
    assert "+4.00 s" in locci("drills", "compare", region, "1", "2").stdout
    assert locci("drills", "rm", region).returncode == 0


def test_secrets(locci: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"canary-1\n")
    made = locci("secrets", "create", "db", "--file", str(tmp_path / "value"))
    assert made.returncode == 0, made.stderr
    assert locci("secrets", "add-version", "db", "--file", str(tmp_path / "value")).returncode == 0
    assert "1,2" in locci("secrets", "ls").stdout
    assert locci("secrets", "destroy-version", "db", "1").returncode == 0
    shown = locci("secrets", "show", "db", "-o", "json")
    assert json.loads(shown.stdout)["versions"][0]["destroyed"]
    assert "canary" not in shown.stdout
    missing = locci("secrets", "create", "other", "--file", str(tmp_path / "none"))
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)
    assert locci("secrets", "rm", "db").returncode == 0


def test_certificates(locci: CommandLine, tmp_path: Path) -> None:
    chain, key = Authority().website("tls.example.net")
    (tmp_path / "chain.pem").write_text(chain)
    (tmp_path / "key.pem").write_text(key)
    files = ("--chain", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"))
    assert locci("certificates", "upload", "tls", *files, "--dry-run").returncode == 0
    assert locci("certificates", "show", "tls").returncode == 4
    assert locci("certificates", "upload", "tls", *files).returncode == 0
    assert "tls.example.net" in locci("certificates", "ls").stdout
    assert locci("certificates", "replace", "tls", *files).returncode == 0
    swapped = locci("certificates", "replace", "tls", *files[:2], "--key", str(tmp_path / "chain.pem"))
    assert (swapped.returncode, "is no private key in PEM" in swapped.stderr) == (2, True)
    missing = locci("certificates", "upload", "x", *files[:2], "--key", str(tmp_path / "none"))
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)
    assert locci("certificates", "rm", "tls").returncode == 0


def test_zones_and_drills(locci: CommandLine, region: str) -> None:
    zone = f"{region}.example.net"
    assert locci("zones", "create", zone, "--ttl", "30m").returncode == 0
    assert json.loads(locci("zones", "show", zone, "-o", "json").stdout)["ttl"] == "1800s"
    signed = locci("zones", "update", zone, "--dnssec")
    assert f"at the parent: {zone}. DS " in signed.stderr
    old = json.loads(locci("zones", "show", zone, "-o", "json").stdout)["ds"][0].split()[0]
    assert locci("zones", "add-key", zone).stderr.count(" DS ") == 2
    assert locci("zones", "retire-key", zone, old).stderr.count(" DS ") == 1
    refused = locci("zones", "retire-key", zone, old)
    assert (refused.returncode, f"has no key {old}" in refused.stderr) == (2, True)
    assert locci("zones", "update", zone).returncode == 2
    spec = ["--fault", "region-cut", "--target", f"regions/{region}", "--hostname", f"www.{zone}"]
    assert locci("drills", "create", region, *spec).returncode == 0
    assert region in locci("drills", "ls").stdout
    assert locci("drills", "runs", region).stderr == "it never ran\n"
    assert zone in locci("routing", "show").stdout
    assert locci("drills", "rm", region).returncode == 0
    assert locci("zones", "rm", zone).returncode == 0


def test_what_is_empty_is_no_failure(locci: CommandLine) -> None:
    for command in (["ps"], ["nodes", "ls"], ["apps", "ls"], ["status"]):
        done = locci(*command)
        assert done.returncode == 0, done.stderr
    assert json.loads(locci("ps", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    "command", [["apps", "show", "nope"], ["releases", "nope"], ["rollback", "nope"], ["nodes", "cordon", "nope"]]
)
def test_what_does_not_exist(locci: CommandLine, command: list[str]) -> None:
    done = locci(*command)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: ")
    assert "nope does not exist" in done.stderr


def test_a_bad_token_is_denied(locci: CommandLine, server: RealServer, tmp_path: Path) -> None:
    context = json.loads(server.context.read_text())
    context["token"] = "locciop1.0123456789ab.wrongwrongwrongwrongwrongwrong"
    locci.context = tmp_path / "context.json"
    locci.context.write_text(json.dumps(context))
    done = locci("apps", "ls")
    assert done.returncode == 5
    assert "the bearer token is not valid" in done.stderr
    assert "wrongwrong" not in done.stderr


def test_a_server_that_is_not_there_or_not_ours(locci: CommandLine, server: RealServer, tmp_path: Path) -> None:
    context = json.loads(server.context.read_text())
    locci.context = tmp_path / "context.json"
    locci.context.write_text(json.dumps({**context, "server": f"https://127.0.0.1:{free_port()}"}))
    done = locci("apps", "ls")
    assert done.returncode == 6
    assert "the control plane cannot be reached" in done.stderr
    locci.context.write_text(json.dumps({**context, "ca_pem": Authority().pem}))
    done = locci("apps", "ls")
    assert done.returncode == 6
    assert "not signed by the CA in the context" in done.stderr


def test_login_keeps_a_context_that_works(locci: CommandLine, server: RealServer, tmp_path: Path) -> None:
    context = json.loads(server.context.read_text())
    (tmp_path / "ca.pem").write_text(context["ca_pem"])
    given = ["--server", server.url, "--ca-file", str(tmp_path / "ca.pem"), "--token"]
    assert locci("login", *given, "locciop1.x.y").returncode == 5
    done = locci("login", *given, "-", stdin=f"{server.token}\n")
    assert done.returncode == 0, done.stderr
    locci.context = tmp_path / ".config" / "locci" / "context.json"
    assert locci("apps", "ls").returncode == 0
    shown = locci("context", "show")
    assert server.url in shown.stdout
    assert server.token.split(".")[2] not in shown.stdout


def test_manifests_that_are_refused(locci: CommandLine, tmp_path: Path, region: str) -> None:
    file = tmp_path / "app.yaml"
    for old, new, text in (
        ("image:", "imge:", f"error: imge: unknown field; did you mean 'image'? ({file}:2)"),
        (" 80", " 70000", f"error: ports[0].container_port: 70000 is not a port; use 1 to 65535 ({file}:4)"),
    ):
        file.write_text(MANIFEST.replace(old, new))
        for command in ("validate", "apply", "plan"):
            done = locci(command, "-f", str(file))
            assert (done.returncode, done.stdout) == (2, "")
            assert text in done.stderr
    file.write_text(f"{MANIFEST}placement: {{regions: [{region}, mars]}}\n")
    assert locci("validate", "-f", str(file)).returncode == 0
    done = locci("plan", "-f", str(file))
    assert done.returncode == 2
    assert "error: placement.regions[1]: there is no region 'mars'; there are: " in done.stderr
    assert f"({file}:7)" in done.stderr


def test_a_registry_that_is_not_there_is_told_from_a_server_that_is_not(locci: CommandLine, region: str) -> None:
    done = locci("apply", "-f", "-", "--wait", stdin=MANIFEST)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "(standard input:2)" in done.stderr


def test_events_are_followed_while_they_happen(locci: CommandLine, region: str) -> None:
    # Whoever runs the tests in the background may have had the signal ignored.
    command = ["env", "--default-signal=INT"]
    command += locci.command("events", "--follow", "--subject", f"regions/{region}", "-o", "json")
    following = subprocess.Popen(command, env=locci.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert json.loads(_line(following))["type"] == "RegionCreated"
        assert locci("regions", "rm", region).returncode == 0
        assert json.loads(_line(following))["type"] == "RegionDeleted"
    finally:
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=10)
    assert following.returncode == 130
    assert "Traceback" not in errors


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + 10
    while not select.select([process.stdout], [], [], 0.2)[0]:
        assert time.monotonic() < deadline, "nothing was said in time"
        assert process.poll() is None
    return process.stdout.readline()


def test_output_to_who_has_gone_is_no_traceback(locci: CommandLine, region: str) -> None:
    command = " ".join([*locci.command("regions", "ls"), "| head -c 1"])
    done = subprocess.run(
        ["sh", "-c", command], env=locci.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr


def test_usage(locci: CommandLine) -> None:
    assert locci("--help").returncode == 0
    assert locci("nope").returncode == 2
    assert locci("regions", "create", "x").returncode == 2
    assert locci("apps", "show", "../ca").returncode == 2
    assert locci("server", "--help").returncode == 0
