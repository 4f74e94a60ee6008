"""Versions of the agent, in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.upgrade import (
    BOOTS_MAX,
    DISK_S,
    EXITS_MAX,
    PATIENCE_S,
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
    Stage,
    StartAgent,
    StopAgent,
    SupervisorProved,
    Switch,
    Tell,
    Ticked,
    Trial,
    Upgrade,
    VersionWanted,
    does_as_well,
)

WELL = Report(True, True, frozenset({"a"}), frozenset({"a"}))
NEW = VersionWanted("2", "2@1", installed=True)


class Host:
    """A supervisor's machine with its process: starts and stops answer at once."""

    def __init__(self, machine: Upgrade | None = None):
        self.machine = machine or Upgrade("1")
        self.now = 100.0
        self.link = self.machine.current
        self.kept: tuple[Trial | None, str] = (None, "")
        self.starts: list[str] = []
        self.notes: list[str] = []
        self.told: list[Tell] = []
        self.begun: list[Command] = []
        """Everything that it was ever told to do."""
        self.proof: SupervisorProved | None = SupervisorProved()
        self.tell(Began())

    def tell(self, event: Event) -> list[Command]:
        commands = self.machine.handle(event, self.now)
        self.begun += commands
        for command in commands:
            match command:
                case Switch(version):
                    self.link = version
                case Remember(trial, refused):
                    self.kept = (trial, refused)
                case StartAgent():
                    self.starts.append(self.link)
                case StopAgent():
                    self.tell(AgentExited(0))
                case ProveSupervisor():
                    if self.proof is not None:
                        self.tell(self.proof)
                case Tell():
                    self.told.append(command)
                case Note(_, message):
                    self.notes.append(message)
        return commands

    def later(self, seconds: float) -> Host:
        self.now += seconds
        self.tell(Ticked())
        return self


def test_a_version_that_does_as_well_stays() -> None:
    host = Host()
    host.tell(AgentReported(WELL))
    host.tell(NEW)
    assert (host.link, host.starts) == ("2", ["1", "2"])
    host.tell(AgentReported(Report(True, True, frozenset(), frozenset({"a"}))))
    assert host.machine.trial is not None
    host.tell(AgentReported(WELL))
    assert host.begun[-2:] == [RefreshOthers(), BecomeSuccessor()]
    host.later(10 * PATIENCE_S)
    assert (host.link, host.machine.trial, host.kept) == ("2", None, (None, ""))


def test_one_that_never_does_as_well_is_taken_back_and_not_tried_again_by_itself() -> None:
    host = Host()
    host.tell(AgentReported(WELL))
    host.tell(NEW)
    host.later(PATIENCE_S - 1)
    assert host.link == "2"
    host.later(2)
    assert (host.link, host.starts) == ("1", ["1", "2", "1"])
    assert "taken back" in host.notes[-1]
    assert host.tell(NEW) == []
    host.tell(VersionWanted("2", "2@2", installed=True))
    assert host.link == "2"


def test_one_that_keeps_ending_is_taken_back_at_once() -> None:
    host = Host()
    host.tell(NEW)
    for _ in range(EXITS_MAX):
        assert host.link == "2"
        host.tell(AgentExited(1))
        host.later(2.0)
    assert (host.link, host.starts[-1]) == ("1", "1")


def test_one_whose_supervisor_cannot_begin_is_taken_back() -> None:
    host = Host()
    host.proof = SupervisorProved(reason="it does not start")
    host.tell(NEW)
    host.tell(AgentReported(WELL))
    assert (host.link, host.starts, host.kept) == ("1", ["1", "2", "1"], (None, "2@1"))
    assert host.told[-1].reason == "its supervisor cannot begin: it does not start"
    assert BecomeSuccessor() not in host.begun


def test_an_older_one_without_such_a_supervisor_stays_and_this_supervisor_goes_on() -> None:
    host = Host()
    host.proof = SupervisorProved(able=False)
    host.tell(NEW)
    host.tell(AgentReported(WELL))
    assert (host.link, host.machine.trial, host.begun[-1]) == ("2", None, RefreshOthers())


def test_a_proof_is_asked_for_once_and_has_its_own_time() -> None:
    host = Host()
    host.proof = None
    host.tell(NEW)
    assert host.tell(AgentReported(WELL)) == [ProveSupervisor()]
    assert host.tell(AgentReported(WELL)) == []
    host.later(PATIENCE_S + 1)
    assert (host.link, host.tell(SupervisorProved())[-1]) == ("2", BecomeSuccessor())


def test_a_proof_is_worth_nothing_when_the_agent_has_ended_meanwhile() -> None:
    host = Host()
    host.proof = None
    host.tell(NEW)
    host.tell(AgentReported(WELL))
    host.tell(AgentExited(1))
    assert host.tell(SupervisorProved()) == []
    host.later(1.0)
    assert host.tell(AgentReported(WELL)) == [ProveSupervisor()]


def test_a_supervisor_that_took_anothers_place_goes_on_with_its_agent() -> None:
    machine = Upgrade("2")
    assert [type(command) for command in machine.handle(Began(adopted=True), 0.0)] == [Note]
    assert machine.handle(Ticked(), 100.0) == []
    assert StartAgent() in machine.handle(AgentExited(1), 200.0)


def test_a_trial_that_cannot_be_noted_on_disk_does_not_begin_and_is_tried_again_later() -> None:
    machine = Upgrade("1")
    machine.handle(Began(), 0.0)
    assert isinstance(machine.handle(NEW, 10.0)[1], Remember)
    commands = machine.handle(NotKept("no space"), 10.0)
    assert [type(command) for command in commands] == [Note, Tell]
    assert (machine.trial, machine.current) == (None, "1")
    assert machine.handle(NEW, 10.0 + DISK_S - 1) == []
    assert StopAgent() in machine.handle(NEW, 10.0 + DISK_S)


def test_one_that_a_reboot_interrupted_goes_on_although_the_boot_cannot_be_noted() -> None:
    machine = Upgrade("2", Trial("2", "1", "2@1"))
    assert isinstance(machine.handle(Began(), 0.0)[0], Remember)
    assert machine.handle(NotKept("no space"), 0.0) == [StartAgent()]
    machine.handle(AgentReported(Report()), 1.0)
    machine.handle(SupervisorProved(), 1.0)
    assert (machine.trial, machine.current) == (None, "2")


def test_what_becomes_of_a_request_is_told() -> None:
    host = Host()
    host.tell(AgentReported(WELL))
    missing = VersionWanted("2", "2@1", installed=False)
    host.tell(missing)
    host.tell(Fetched("the network is down"))
    host.later(31)
    host.tell(missing)
    host.tell(Fetched())
    host.tell(NEW)
    host.later(PATIENCE_S + 1)
    stages = [said.stage for said in host.told]
    assert stages == [Stage.FETCHING, Stage.NOT_INSTALLED, Stage.FETCHING, Stage.TRIED, Stage.TAKEN_BACK]
    assert host.told[1].reason == "the network is down"
    assert "does not do as well" in host.told[-1].reason
    assert {(said.version, said.key) for said in host.told} == {("2", "2@1")}


def test_a_request_for_what_runs_is_settled_at_once_and_told_once() -> None:
    host = Host()
    running = VersionWanted("1", "1@7", installed=True)
    assert host.tell(running) == [Tell("1", "1@7", Stage.STAYED)]
    assert host.tell(running) == []
    host.tell(NEW)
    host.tell(AgentReported(WELL))
    assert host.told[-1] == Tell("2", "2@1", Stage.STAYED)
    assert host.tell(NEW) == []


def test_an_agent_that_was_cut_off_before_need_not_be_connected_after() -> None:
    assert does_as_well(Report(False, True), Report(False, True))
    assert not does_as_well(Report(False, True), Report(True, True))
    assert does_as_well(Report(True, True, frozenset(), frozenset()), WELL)


def test_what_is_not_installed_is_fetched_and_tried_again_ever_more_slowly() -> None:
    host = Host()
    missing = VersionWanted("9", "9@1", installed=False)
    assert Fetch("9") in host.tell(missing)
    host.now += 1000
    assert host.tell(missing) == []
    host.tell(Fetched("the network is down"))
    assert "the network is down" in host.notes[-1]
    assert host.tell(missing) == []
    host.now += 31
    assert Fetch("9") in host.tell(missing)
    host.tell(Fetched("the network is down"))
    host.now += 31
    assert host.tell(missing) == []
    host.now += 31
    assert Fetch("9") in host.tell(missing)
    host.tell(Fetched())
    host.tell(VersionWanted("9", "9@1", installed=True))
    assert host.link == "9"


def test_a_reboot_in_the_middle_goes_on_with_the_trial_and_at_last_takes_it_back() -> None:
    host = Host()
    host.tell(AgentReported(WELL))
    host.tell(NEW)
    for _ in range(BOOTS_MAX):
        trial, refused = host.kept
        host = Host(Upgrade(host.link, trial, refused))
        assert host.link == "2"
        host.kept = (host.machine.trial, refused)
    host = Host(Upgrade(host.link, *host.kept))
    assert (host.link, host.kept) == ("1", (None, "2@1"))
    assert host.starts == ["1"]


def test_an_agent_that_ends_is_started_again_ever_more_slowly() -> None:
    host = Host()
    host.tell(AgentExited(1))
    assert host.starts == ["1"]
    host.later(0.5)
    assert host.starts == ["1", "1"]
    host.tell(AgentExited(1))
    host.later(0.5)
    assert host.starts == ["1", "1"]
    host.later(0.5)
    assert host.starts == ["1", "1", "1"]


@given(
    st.lists(
        st.one_of(
            st.just(NEW),
            st.sampled_from([AgentReported(WELL), AgentReported(Report()), AgentExited(1)]),
            st.floats(0.1, 100.0).map(lambda _: Ticked()),
        ),
        max_size=40,
    ),
    st.floats(0.1, 40.0),
)
def test_whatever_happens_the_link_is_what_the_machine_thinks_and_an_agent_comes_back(
    events: list[Event], step_s: float
) -> None:
    host = Host()
    alive = True
    for event in events:
        host.now += step_s
        if isinstance(event, AgentExited) and not alive:
            continue
        before = len(host.starts)
        host.tell(event)
        alive = len(host.starts) > before or (alive and not isinstance(event, AgentExited))
        assert host.link == host.machine.current
        trial, _ = host.kept
        assert (trial is None) == (host.machine.trial is None)
    count = len(host.starts)
    host.later(60.0)
    assert alive or len(host.starts) > count
