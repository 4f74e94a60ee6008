"""Each condition of a host is an event and a metric, when it turns and when it is in order again."""

from __future__ import annotations

from typing import Any

from agent.caretaker import Caretaker
from agent.core.conditions import HostFigures
from agent.core.messages import RecordEvent
from agent.metrics import Metrics
from tests.fakes.clock import ManualClock

FINE = HostFigures(0.5, 0.5, 0.5, 0.1, 50_000.0)
BAD = HostFigures(0.95, 0.99, 9.0, -5.0, 60.0, "it is gone", "no route to host")
KINDS = ("DiskSpace", "Memory", "Load", "Clock", "Certificate", "Engine", "Registry")


class Host:
    """A caretaker of a host whose figures are set by hand; it has no engine to ask."""

    def __init__(self) -> None:
        self.figures = FINE
        self.events: list[RecordEvent] = []
        self.metrics = Metrics()
        unused: Any = None
        self.caretaker = Caretaker(
            engine=unused,
            images=unused,
            signatures=unused,
            clock=ManualClock(),
            figures=lambda: self.figures,
            wanted=frozenset,
            running=dict,
            record=self.events.append,
            show=self.metrics.show_conditions,
            show_usage=lambda usage: None,
        )

    def look(self, figures: HostFigures, now: float) -> list[RecordEvent]:
        self.figures = figures
        self.events.clear()
        self.caretaker.look_at_host(now)
        return list(self.events)

    def shown(self) -> dict[str, float]:
        name = "locci_agent_host_condition"
        return {kind: self.metrics.registry.get_sample_value(name, {"type": kind}) or 0.0 for kind in KINDS}


def test_each_condition_is_an_event_and_a_metric() -> None:
    host = Host()
    assert host.look(FINE, 1.0) == []
    assert host.shown() == dict.fromkeys(KINDS, 1.0)
    troubled = host.look(BAD, 2.0)
    assert [(event.kind, event.severity) for event in troubled] == [
        (f"Host{kind}Troubled", "warning") for kind in KINDS
    ]
    assert all(event.message for event in troubled)
    assert host.shown() == dict.fromkeys(KINDS, 0.0)
    assert host.look(BAD, 3.0) == []
    recovered = host.look(FINE, 4.0)
    assert [(event.kind, event.severity) for event in recovered] == [(f"Host{kind}Recovered", "info") for kind in KINDS]
    assert host.shown() == dict.fromkeys(KINDS, 1.0)
