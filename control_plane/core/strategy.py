"""Which parts of a rollout policy belong to which strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fleet.errors import invalid

if TYPE_CHECKING:
    from control_plane.core.manifest import Placement, RolloutPolicy

_PATH: Final = "manifest.rollout"


def check(policy: RolloutPolicy, placement: Placement) -> None:
    """Raises INVALID_ARGUMENT for what the strategy of a policy has no use for, or cannot do."""
    _check_canary(policy, placement)
    if policy.strategy == "rolling" and policy.manual_promotion:
        at = f"{_PATH}.manual_promotion"
        raise invalid(at, f"{at}: there is something to promote with strategy canary or blue/green only")
    if policy.strategy != "blue-green":
        if policy.hold_s:
            raise invalid(f"{_PATH}.hold", f"{_PATH}.hold: replicas are held with strategy blue/green only")
        return
    at = f"{_PATH}.strategy"
    if policy.max_surge or policy.max_unavailable or policy.waves:
        wrong = "leave out max_surge, max_unavailable and waves"
        raise invalid(at, f"{at}: blue/green starts all new replicas beside the old ones: {wrong}")
    if placement.singleton:
        raise invalid(at, f"{at}: a singleton never runs twice, so not side by side either")


def _check_canary(policy: RolloutPolicy, placement: Placement) -> None:
    canary = policy.canary_replicas or policy.canary_bake_s or policy.canary_percent or policy.canary_regions
    if policy.strategy != "canary" and canary:
        at = f"{_PATH}.canary_replicas"
        raise invalid(at, f"{at}: canary_replicas, _percent, _regions and _bake need strategy canary")
    if policy.canary_percent > 100 or (policy.canary_percent and policy.canary_replicas):
        at = f"{_PATH}.canary_percent"
        raise invalid(at, f"{at}: give either canary_replicas or canary_percent, which is at most 100")
    outside = [r for r in policy.canary_regions if placement.regions and r not in placement.regions]
    if outside:
        at = f"{_PATH}.canary_regions"
        raise invalid(at, f"{at}: {outside[0]!r} is not among the regions of the placement")
