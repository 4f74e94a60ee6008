"""Hysteresis of probes: how many answers in a row it takes to change a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.core.model import Probe


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict on a container by one probe. `since` is when the verdict was reached."""

    good: bool
    since: float
    started_at: float
    successes: int = 0
    failures: int = 0
    reason: str = ""


def unknown(now: float) -> Health:
    """Of a container that has just started: not ready until a probe says so."""
    return Health(False, now, now, reason="no probe has succeeded so far")


def presumed_good(now: float) -> Health:
    """Of a container that is alive as far as anyone knows: bad only when probes say so."""
    return Health(True, now, now)


def after_success(health: Health, probe: Probe, now: float) -> Health:
    """The health after one more good answer."""
    successes = health.successes + 1
    if health.good or successes < probe.healthy_after:
        return replace(health, successes=successes, failures=0)
    return Health(True, now, health.started_at, successes=successes)


def after_failure(health: Health, probe: Probe, now: float, reason: str) -> Health:
    """The health after one more bad answer. During the start period it changes no verdict, only the reason."""
    if not health.good:
        return replace(health, successes=0, failures=health.failures + 1, reason=reason)
    if now < health.started_at + probe.start_period_s:
        return replace(health, successes=0)
    failures = health.failures + 1
    if failures < probe.unhealthy_after:
        return replace(health, successes=0, failures=failures)
    return Health(False, now, health.started_at, failures=failures, reason=reason)
