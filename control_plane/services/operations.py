"""Long-running operations: one view of rollouts, drains, drill runs, backups and upgrades. Nothing is stored here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from control_plane import decode, drills
from control_plane.core.roles import may_see
from control_plane.core.rollout import TERMINAL, State
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.releases import RolloutService
from control_plane.services.upgrades import UpgradeService
from fleet.errors import failed_precondition, invalid, not_found
from fleet.ids import last_part, parse
from locci.v1 import backup_pb2, drill_pb2, node_pb2, operation_pb2, release_pb2, upgrade_pb2

WAIT_S_DEFAULT: Final = 20.0
WAIT_S_MAX: Final = 25.0
_POLL_S: Final = 1.0

Operation = operation_pb2.LongRunningOperation

_OF_ROLLOUT: Final = {
    State.SUCCEEDED: Operation.STATE_SUCCEEDED,
    State.FAILED: Operation.STATE_FAILED,
    State.ROLLED_BACK: Operation.STATE_FAILED,
    State.SUPERSEDED: Operation.STATE_CANCELLED,
    State.ABORTED: Operation.STATE_CANCELLED,
}


_OF_UPGRADE: Final = {
    upgrade_pb2.Upgrade.STATE_SUCCEEDED: Operation.STATE_SUCCEEDED,
    upgrade_pb2.Upgrade.STATE_FAILED: Operation.STATE_FAILED,
    upgrade_pb2.Upgrade.STATE_ABORTED: Operation.STATE_CANCELLED,
}


class OperationService:
    """Implements `locci.v1.OperationService`."""

    def __init__(self, context: Context, rollouts: RolloutService):
        self._context = context
        self._state = context.state
        self._rollouts = rollouts
        self._upgrades = UpgradeService(context)

    def seen_by(self, caller: Caller) -> list[tuple[str, Operation]]:
        """The operations that a caller is shown, by name."""
        found = {op.name: op for op in self._derived() if may_see(caller.scopes, op.target)}
        return sorted(found.items())

    def _derived(self) -> Iterator[Operation]:
        yield from (of_rollout(row) for row in self._state.rollouts.values())
        yield from (of_drill_run(row) for row in self._state.drill_runs.values())
        yield from (of_backup(row) for row in self._state.backups.values())
        yield from (of_upgrade(self._upgrades.shown(row)) for row in self._state.upgrades.values())
        draining = node_pb2.NODE_CONDITION_DRAINING
        for node in self._state.nodes.values():
            if node.condition == draining:
                yield self._of_drain(node)

    def _of_drain(self, node: node_pb2.Node) -> Operation:
        """A drain as an operation, until the node is uncordoned, removed or back."""
        left = sum(1 for row in self._state.assignments.values() if row.node == node.name)
        done = not node.HasField("drain_deadline_time")
        result = Operation(
            name=name_of(node.name),
            kind="drain",
            target=node.name,
            state=Operation.STATE_SUCCEEDED if done else Operation.STATE_RUNNING,
            done=done,
            reason=node.condition_reason if done else f"{node.condition_reason}; {left} replicas are left",
        )
        result.create_time.CopyFrom(node.condition_time)
        return result

    def _need(self, name: str, caller: Caller) -> Operation:
        operation = self._found(name)
        if not may_see(caller.scopes, operation.target):
            raise not_found(name)
        return operation

    def _found(self, name: str) -> Operation:
        parse(name, "operations/*")
        target = last_part(name).replace(".", "/")
        rollout = self._state.rollouts.get(target)
        if rollout is not None:
            return of_rollout(rollout)
        found = next((operation for operation in self._derived() if operation.name == name), None)
        if found is None:
            raise not_found(name)
        return found

    async def list_operations(
        self, request: operation_pb2.ListOperationsRequest, caller: Caller
    ) -> operation_pb2.ListOperationsResponse:
        rows, token = listing.page(request, self.seen_by(caller))
        return operation_pb2.ListOperationsResponse(operations=rows, next_page_token=token)

    async def get_operation(self, request: operation_pb2.GetOperationRequest, caller: Caller) -> Operation:
        return self._need(request.name, caller)

    async def wait_operation(self, request: operation_pb2.WaitOperationRequest, caller: Caller) -> Operation:
        timeout_s = WAIT_S_DEFAULT
        if request.HasField("timeout"):
            timeout_s = request.timeout.ToMicroseconds() / 1e6
        if timeout_s < 0:
            raise invalid("timeout", f"timeout: {timeout_s:g} s must not be negative")
        until = self._context.clock.monotonic() + min(timeout_s, WAIT_S_MAX)
        while True:
            operation = self._need(request.name, caller)
            left = until - self._context.clock.monotonic()
            if operation.done or left <= 0:
                return operation
            await self._state.wait_change(min(left, _POLL_S))

    async def cancel_operation(self, request: operation_pb2.CancelOperationRequest, caller: Caller) -> Operation:
        operation = self._need(request.name, caller)
        if operation.done:
            raise failed_precondition("OPERATION_DONE", f"{request.name} has ended already")
        if operation.kind == "upgrade":
            await self._upgrades.abort_upgrade(upgrade_pb2.AbortUpgradeRequest(name=operation.target), caller)
            return self._need(request.name, caller)
        if operation.kind != "rollout":
            message = f"{request.name} cannot be cancelled here: act on {operation.target}"
            raise failed_precondition("NOT_CANCELLABLE", message)
        await self._rollouts.abort_rollout(release_pb2.AbortRolloutRequest(name=operation.target), caller)
        return self._need(request.name, caller)

    async def watch_operation(
        self, request: operation_pb2.GetOperationRequest, caller: Caller
    ) -> AsyncIterator[Operation]:
        before: Operation | None = None
        while True:
            operation = self._need(request.name, caller)
            if operation != before:
                before = operation
                yield operation
            if operation.done:
                return
            await self._state.wait_change(_POLL_S)


def name_of(target: str) -> str:
    """The operation's name of a resource: `apps/hello/rollouts/3` is `operations/apps.hello.rollouts.3`."""
    return f"operations/{target.replace('/', '.')}"


def of_rollout(row: release_pb2.Rollout) -> Operation:
    """A rollout as an operation."""
    state = decode.state_of(row)
    done = state in TERMINAL
    result = Operation(
        name=name_of(row.name),
        kind="rollout",
        target=row.name,
        state=_OF_ROLLOUT.get(state, Operation.STATE_RUNNING),
        done=done,
        reason=row.reason or state.value,
        steps_done=min(row.healthy, row.wanted),
        steps=row.wanted,
        cancellable=not done and state is not State.ROLLING_BACK,
    )
    result.create_time.CopyFrom(row.create_time)
    if done:
        result.end_time.CopyFrom(row.end_time)
    return result


def of_upgrade(row: upgrade_pb2.Upgrade) -> Operation:
    """An upgrade of the fleet's agents as an operation."""
    done = row.HasField("end_time")
    result = Operation(
        name=name_of(row.name),
        kind="upgrade",
        target=row.name,
        state=_OF_UPGRADE.get(row.state, Operation.STATE_RUNNING),
        done=done,
        reason=row.reason,
        steps_done=row.running_nodes,
        steps=row.fleet_nodes,
        cancellable=not done,
    )
    result.create_time.CopyFrom(row.create_time)
    if done:
        result.end_time.CopyFrom(row.end_time)
    return result


def of_drill_run(row: drill_pb2.DrillRun) -> Operation:
    """The run of a drill as an operation; one that a lab recorded has ended."""
    done = not drills.is_under_way(row)
    state = Operation.STATE_SUCCEEDED if row.passed else Operation.STATE_FAILED
    if row.state == drill_pb2.DrillRun.STATE_ABORTED:
        state = Operation.STATE_CANCELLED
    result = Operation(
        name=name_of(row.name),
        kind="drill",
        target=row.name,
        state=state if done else Operation.STATE_RUNNING,
        done=done,
        reason=row.reason or "; ".join(row.failures) or "every objective was met",
    )
    result.create_time.CopyFrom(row.fault_time if row.HasField("fault_time") else row.create_time)
    if done:
        result.end_time.CopyFrom(row.state_time if row.HasField("state_time") else row.create_time)
    return result


_OF_BACKUP: Final = {
    backup_pb2.Backup.STATE_READY: Operation.STATE_SUCCEEDED,
    backup_pb2.Backup.STATE_FAILED: Operation.STATE_FAILED,
}


def of_backup(row: backup_pb2.Backup) -> Operation:
    """A backup as an operation."""
    state = _OF_BACKUP.get(row.state, Operation.STATE_RUNNING)
    done = state != Operation.STATE_RUNNING
    result = Operation(
        name=name_of(row.name), kind="backup", target=row.name, state=state, done=done, reason=row.reason
    )
    result.create_time.CopyFrom(row.create_time)
    if done:
        result.end_time.CopyFrom(row.end_time)
    return result
