"""`locci-agent supervise`: keeps the installed agent running, switches its version, goes back when that was no good.

It is the parent of `current/bin/locci-agent run`. Containers and the edge are not: nothing here touches them. When a
version has proved itself the supervisor goes on as that version's, in the same process and with the same agent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, assert_never

import structlog

from agent.adapters import status_socket
from agent.adapters.child_process import ChildProcess
from agent.adapters.upgrade_status import SUPERVISED, UpgradeStatus
from agent.adapters.wanted_version import VERSION, WantedVersion
from agent.core.upgrade import (
    AgentExited,
    AgentReported,
    BecomeSuccessor,
    Began,
    Command,
    Event,
    Fetch,
    Fetched,
    Note,
    NotKept,
    ProveSupervisor,
    RefreshOthers,
    Remember,
    Report,
    StartAgent,
    StopAgent,
    SupervisorProved,
    Switch,
    Tell,
    Ticked,
    Trial,
    Upgrade,
    VersionWanted,
)
from agent.settings import AgentSettings
from fleet.clock import Clock, SystemClock
from fleet.errors import LocciError, failed_precondition, invalid
from fleet.files import write_atomic

log = structlog.get_logger()

LOOK_EVERY_S: Final = 0.5
STOP_S: Final = 15.0
FETCH_S: Final = 900.0
RELOAD_S: Final = 30.0
PROOF_S: Final = 30.0
NO_SUCH_OPTION: Final = "No such option"
"""What the program's option parser says: the version is older than what it was asked for."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
STATE_NAME: Final = "upgrade.json"


@dataclass(frozen=True, slots=True)
class Installation:
    """Versions side by side in a folder, and the link that names the one that runs."""

    root: Path

    @property
    def current(self) -> str:
        """The version that runs. Raises FAILED_PRECONDITION when there is none."""
        try:
            return os.path.basename(os.readlink(self.root / "current"))
        except OSError as error:
            message = (
                f"{self.root}/current does not name a version: {error.strerror}; run install.sh, or set install_dir"
            )
            raise failed_precondition("NOT_INSTALLED", message) from error

    def has(self, version: str) -> bool:
        """Whether a version is there."""
        program = self.root / version / "bin" / "locci-agent"
        return VERSION.fullmatch(version) is not None and os.access(program, os.X_OK)

    def switch(self, version: str) -> None:
        """Names another version, by one rename. Raises OSError."""
        if os.path.islink(self.root / "current") and self.current == version:
            return
        fresh = self.root / ".current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(version)
        os.replace(fresh, self.root / "current")


def want(settings: AgentSettings, version: str) -> None:
    """Asks the supervisor on this host for a version. Raises INVALID_ARGUMENT when it is not installed."""
    if not Installation(settings.install_dir).has(version):
        there = sorted(path.parents[1].name for path in settings.install_dir.glob("[!.]*/bin/locci-agent"))
        versions = ", ".join(name for name in there if name != "current") or "none"
        raise invalid("version", f"version {version} is not in {settings.install_dir}; there: {versions}")
    WantedVersion(settings.state_dir).ask(version)


class Supervisor:
    """Carries out what the machine commands."""

    def __init__(
        self, settings: AgentSettings, config: Path | None, clock: Clock | None = None, adopted: int | None = None
    ):
        """`adopted` is the process id of the agent that this process has already. Raises FAILED_PRECONDITION."""
        self._settings = settings
        self._config = config
        self._clock = clock or SystemClock()
        self._installation = Installation(settings.install_dir)
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._memory = settings.state_dir / STATE_NAME
        trial, refused = _remembered(self._memory)
        self._machine = Upgrade(self._installation.current, trial, refused)
        self._adopted = adopted
        self._agent: ChildProcess | None = None
        self._exit: asyncio.Future[int] | None = None
        self._fetch: asyncio.Task[str] | None = None
        self._proof: asyncio.Task[SupervisorProved] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._becoming = False
        self._owed: list[Command] = []

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT; the agent ends with it. Raises OSError when the agent cannot be started."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, stop.set)
        # Held back while one supervisor became another.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        stopping = asyncio.create_task(stop.wait())
        try:
            await self._tell(Began(adopted=self._adopt()))
            while not stop.is_set():
                waits = {stopping} | ({self._exit} if self._exit is not None else set())
                await asyncio.wait(waits, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if not stop.is_set():
                    await self._look()
        finally:
            stopping.cancel()
            tasks = [task for task in (self._fetch, self._proof, self._refreshing) if task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self._stop()

    def _adopt(self) -> bool:
        """Whether this process has an agent from the supervisor whose place it took."""
        if self._adopted is None:
            return False
        try:
            self._agent = ChildProcess(self._adopted)
        except OSError:
            return False
        self._exit = self._agent.ended
        return True

    async def _make_up(self) -> None:
        """Does what a full disk did not allow."""
        owed, self._owed = self._owed, []
        for command in owed:
            try:
                await self._carry_out(command)
            except OSError:
                self._owed.append(command)

    async def _look(self) -> None:
        await self._make_up()
        if self._exit is not None and self._exit.done():
            code, self._exit, self._agent = self._exit.result(), None, None
            await self._tell(AgentExited(code))
        if self._fetch is not None and self._fetch.done():
            reason, self._fetch = self._fetch.result(), None
            await self._tell(Fetched(reason))
        if self._proof is not None and self._proof.done():
            proved, self._proof = self._proof.result(), None
            await self._tell(proved)
        report = await self._report()
        if report is not None:
            await self._tell(AgentReported(report))
        wanted = self._wanted()
        if wanted is not None:
            await self._tell(wanted)
        await self._tell(Ticked())
        self._become_if_due()

    async def _tell(self, event: Event) -> None:
        for command in self._machine.handle(event, self._clock.monotonic()):
            try:
                await self._carry_out(command)
            except OSError as error:
                reason = f"{error.filename or self._memory}: {error.strerror}; free some space there"
                if self._machine.trial is not None:
                    await self._tell(NotKept(reason))
                    return
                # A trial is over: what could not be noted of that now is noted as soon as that is possible.
                log.error("upgrade_not_kept", reason=reason)
                self._owed.append(command)

    async def _carry_out(self, command: Command) -> None:
        match command:
            case StartAgent():
                await self._start()
            case StopAgent():
                await self._stop()
            case Fetch(version):
                self._fetch = asyncio.create_task(fetch(self._settings, version))
            case Switch(version):
                self._installation.switch(version)
            case Remember(trial, refused):
                content = {"trial": _plain(trial), "refused": refused}
                write_atomic(self._memory, json.dumps(content).encode())
            case Tell():
                self._keep(command)
            case ProveSupervisor():
                self._proof = asyncio.create_task(prove(self._program, self._options))
            case RefreshOthers():
                self._refreshing = asyncio.create_task(self._refresh_others())
            case BecomeSuccessor():
                self._becoming = True
            case Note(severity, message):
                getattr(log, severity)("upgrade", message=message)
            case _:
                assert_never(command)

    def _keep(self, said: Tell) -> None:
        """Nothing depends on it but what the control plane is shown: a full disk must not end the supervisor."""
        try:
            UpgradeStatus(self._settings.state_dir).tell(said)
        except OSError as error:
            log.error("upgrade_status_not_kept", reason=error.strerror)

    async def _refresh_others(self) -> None:
        await reload("edge", self._settings.edge_reload_command)
        await reload("dns", self._settings.dns_reload_command)

    def _become_if_due(self) -> None:
        """Goes on as the new version when nothing else is under way; as the old one when that is not possible."""
        busy = self._fetch is not None or (self._refreshing is not None and not self._refreshing.done())
        if not self._becoming or busy or self._machine.trial is not None:
            return
        self._becoming = False
        adopted = () if self._agent is None or self._agent.ended.done() else ("--adopt", str(self._agent.pid))
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            os.execv(self._program, [str(self._program), "supervise", *self._options, *adopted])  # noqa: S606
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            log.error("the supervisor goes on as the old version", reason=error.strerror)

    @property
    def _program(self) -> Path:
        return self._settings.install_dir / "current" / "bin" / "locci-agent"

    @property
    def _options(self) -> tuple[str, ...]:
        return ("--config", str(self._config)) if self._config is not None else ()

    async def _start(self) -> None:
        env = os.environ | {SUPERVISED: str(os.getpid())}
        try:
            self._agent = ChildProcess.start([str(self._program), "run", *self._options], env)
        except OSError as error:
            # A version whose program cannot even be started is like one that ends at once.
            log.error("agent_not_started", program=str(self._program), reason=error.strerror)
            self._exit = asyncio.create_task(_code(127))
            return
        self._exit = self._agent.ended

    async def _stop(self) -> None:
        """Ends the agent; its exit is seen by `_look`."""
        if self._agent is not None:
            await self._agent.end(STOP_S)

    async def _report(self) -> Report | None:
        if self._agent is None or self._agent.ended.done():
            return None
        try:
            answer = await status_socket.ask(self._settings.run_dir / "agent.sock")
        except LocciError:
            return None
        return report_of(answer)

    def _wanted(self) -> VersionWanted | None:
        wanted = WantedVersion(self._settings.state_dir).read()
        return None if wanted is None else VersionWanted(*wanted, self._installation.has(wanted[0]))


async def reload(what: str, command: Sequence[str]) -> None:
    """Has another program take the new version. It serves on with the version that it has when it cannot."""
    if not command:
        return
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(RELOAD_S):
            _, said = await process.communicate()
        reason = said.decode("utf-8", "replace").strip() or f"exit code {process.returncode}"
    except (OSError, TimeoutError) as error:
        reason = str(error) or f"not within {RELOAD_S:g} s"
    else:
        if process.returncode == 0:
            log.info(f"{what}_reloads")
            return
    log.warning(f"{what}_not_reloaded", command=" ".join(command), reason=reason)


async def prove(program: Path, options: Sequence[str]) -> SupervisorProved:
    """Has a version's supervisor do all that it does before it begins: one that cannot would leave this host without an
    agent at the next boot."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(str(program), "supervise", *options, "--check"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return SupervisorProved(reason=str(error.strerror))
    try:
        async with asyncio.timeout(PROOF_S):
            _, said = await process.communicate()
    except TimeoutError:
        return SupervisorProved(reason=f"not within {PROOF_S:g} s")
    finally:
        if process.returncode is None:
            process.kill()
    text = said.decode("utf-8", "replace").strip()
    if process.returncode and NO_SUCH_OPTION in text:
        return SupervisorProved(able=False)
    last = (text.splitlines() or [f"exit code {process.returncode}"])[-1]
    return SupervisorProved(reason=last if process.returncode else "")


async def fetch(settings: AgentSettings, version: str) -> str:
    """Installs a version beside the one that runs, by the installer that came with that; why not, or nothing."""
    folder = settings.install_dir
    if folder.parts[-2:] != ("opt", "locci"):
        return f"{folder} is not the installer's opt/locci: install it there"
    try:
        source = settings.release_source.read_text().strip()
    except OSError as error:
        return f"{settings.release_source}: {error.strerror}; write there where releases are, or install it by hand"
    root = () if folder.parents[1] == Path("/") else ("--root", str(folder.parents[1]))
    script = folder / "current" / "share" / "install.sh"
    process = await asyncio.create_subprocess_exec(
        *("sh", str(script), "--version", version, "--from", source, "--no-start", *root),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        async with asyncio.timeout(FETCH_S):
            _, said = await process.communicate()
    except TimeoutError:
        return f"not within {FETCH_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if "error:" in line]
    return "" if process.returncode == 0 else (lines or ["exit code " + str(process.returncode)])[-1]


def report_of(answer: dict[str, Any]) -> Report:
    """What an agent's status says, as far as it matters here; keys that a version does not have count as nothing."""
    replicas = [replica for replica in answer.get("replicas", []) if "resource" in replica]
    return Report(
        connected=bool(answer.get("connected")),
        engine=bool(answer.get("engine", {}).get("reachable")),
        ready=frozenset(replica["resource"] for replica in replicas if replica.get("ready")),
        wanted=frozenset(replica["resource"] for replica in replicas),
    )


async def _code(code: int) -> int:
    return code


def _plain(trial: Trial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    baseline = asdict(trial.baseline)
    names = {key: sorted(baseline[key]) for key in ("ready", "wanted")}
    return asdict(trial) | {"baseline": baseline | names, "deadline": 0.0}


def _remembered(path: Path) -> tuple[Trial | None, str]:
    """What was kept; a damaged file is as good as none, and then whatever `current` names is what runs."""
    try:
        content = json.loads(path.read_text())
        trial, refused = content["trial"], str(content["refused"])
        if trial is None:
            return None, refused
        base = trial["baseline"]
        names = {key: frozenset(map(str, base[key])) for key in ("ready", "wanted")}
        baseline = Report(bool(base["connected"]), bool(base["engine"]), **names)
        return Trial(trial["version"], trial["before"], trial["key"], baseline, int(trial["boots"])), refused
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, ""
