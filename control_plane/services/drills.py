"""Drills: declared faults, and the runs that measured them."""

from __future__ import annotations

from google.protobuf import empty_pb2

from control_plane import decode
from control_plane.core.drill_samples import SAMPLES_MAX
from control_plane.core.drills import judge
from control_plane.drill_checks import check
from control_plane.drill_spec import objectives, subjects
from control_plane.drills import add_signature, begin, forget_old, is_under_way, new_run
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import merge
from control_plane.state import Batch
from fleet.errors import already_exists, failed_precondition, invalid
from fleet.ids import check_id, last_part, parse
from locci.v1 import drill_pb2, event_pb2

_ID_LENGTH_MAX = 60
_MARKS_MAX = 1_000
_CLIENTS_MAX = 100
_REASON_MAX = 500
_OWN = frozenset({"spec"})


class DrillService:
    """Implements `locci.v1.DrillService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_drills(self, request: drill_pb2.ListDrillsRequest, caller: Caller) -> drill_pb2.ListDrillsResponse:
        rows, token = listing.page(request, self._state.drills.items())
        return drill_pb2.ListDrillsResponse(drills=rows, next_page_token=token)

    async def get_drill(self, request: drill_pb2.GetDrillRequest, caller: Caller) -> drill_pb2.Drill:
        parse(request.name, "drills/*")
        return self._state.drills.need(request.name)

    async def create_drill(self, request: drill_pb2.CreateDrillRequest, caller: Caller) -> drill_pb2.Drill:
        async def act() -> drill_pb2.Drill:
            drill_id = check_id(request.drill_id, "drill_id", _ID_LENGTH_MAX)
            row = drill_pb2.Drill(name=f"drills/{drill_id}", spec=request.drill.spec)
            row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            check(self._state, row.spec)

            def build(batch: Batch) -> None:
                if row.name in self._state.drills:
                    raise already_exists(row.name)
                batch.put(self._state.drills, row.name, row, 0)
                batch.event("DrillCreated", f"{caller.principal} declared {row.name}", row.name)

            await self._context.change(build)
            return self._state.drills.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def update_drill(self, request: drill_pb2.UpdateDrillRequest, caller: Caller) -> drill_pb2.Drill:
        async def act() -> drill_pb2.Drill:
            name = request.drill.name
            parse(name, "drills/*", "drill.name")

            def build(batch: Batch) -> drill_pb2.Drill:
                row = self._state.drills.copy(name)
                self._check_idle(row)
                merge(row, request.drill, request.update_mask, _OWN, "drill")
                check(self._state, row.spec)
                if not request.validate_only:
                    batch.put(self._state.drills, name, row)
                    batch.event("DrillUpdated", f"{caller.principal} changed {name}", name)
                return row

            row = await self._context.change(build)
            return row if request.validate_only else self._state.drills.need(name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def delete_drill(self, request: drill_pb2.DeleteDrillRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "drills/*")

        def build(batch: Batch) -> None:
            self._check_idle(self._state.drills.need(request.name))
            batch.delete(self._state.drills, request.name)
            for name in self._state.drill_runs:
                if name.startswith(f"{request.name}/"):
                    batch.delete(self._state.drill_runs, name)
            batch.event("DrillDeleted", f"{caller.principal} removed {request.name}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()

    async def create_drill_run(self, request: drill_pb2.CreateDrillRunRequest, caller: Caller) -> drill_pb2.DrillRun:
        async def act() -> drill_pb2.DrillRun:
            parse(request.parent, "drills/*", "parent")
            if len(request.run.marks) > _MARKS_MAX:
                raise invalid("run.marks", f"run.marks: at most {_MARKS_MAX} marks")
            if len(request.run.clients) > _CLIENTS_MAX:
                raise invalid("run.clients", f"run.clients: at most {_CLIENTS_MAX} rows")
            if any(len(row.samples) > SAMPLES_MAX for row in request.run.clients):
                raise invalid("run.clients", f"run.clients: at most {SAMPLES_MAX} samples in each row")

            def build(batch: Batch) -> str:
                drill = self._state.drills.copy(request.parent)
                self._check_idle(drill)
                row = self._run(drill, request.run)
                add_signature(row, self._context.authority.sign_report)
                drill.last_run = row.name
                forget_old(self._state, batch, drill.name)
                batch.put(self._state.drill_runs, row.name, row, 0)
                batch.put(self._state.drills, drill.name, drill)
                verdict = "passed" if row.passed else f"failed: {'; '.join(row.failures)}"
                severity = event_pb2.SEVERITY_INFO if row.passed else event_pb2.SEVERITY_ERROR
                message = f"{row.name} {verdict}"
                batch.event("DrillRunRecorded", message, row.name, drill.name, *subjects(row.spec), severity=severity)
                return row.name

            return self._state.drill_runs.need(await self._context.change(build))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _run(self, drill: drill_pb2.Drill, given: drill_pb2.DrillRun) -> drill_pb2.DrillRun:
        row = new_run(self._state, self._context.observed, drill, self._context.clock.wall())
        row.requests, row.failed_requests = given.requests, given.failed_requests
        row.marks.extend(given.marks)
        row.clients.extend(given.clients)
        if given.HasField("fault_time"):
            row.fault_time.CopyFrom(given.fault_time)
        marks: dict[str, float] = {}
        for mark in given.marks:
            marks.setdefault(mark.stage, mark.after.seconds + mark.after.nanos / 1e9)
        row.failures[:] = judge(objectives(drill.spec), marks)
        row.passed = not row.failures
        return row

    def _check_idle(self, drill: drill_pb2.Drill) -> None:
        last = self._state.drill_runs.get(drill.last_run)
        if last is not None and is_under_way(last):
            raise failed_precondition("DRILL_RUNS", f"{last.name} goes on: wait for its end, or abort it")

    async def run_drill(self, request: drill_pb2.RunDrillRequest, caller: Caller) -> drill_pb2.DrillRun:
        async def act() -> drill_pb2.DrillRun:
            parse(request.name, "drills/*")

            def build(batch: Batch) -> drill_pb2.DrillRun:
                drill = self._state.drills.copy(request.name)
                self._check_runnable(drill)
                now, observed = self._context.steady(), self._context.observed
                if request.validate_only:
                    return new_run(self._state, observed, drill, now)
                return begin(self._state, observed, batch, drill, caller.principal, now)

            row = await self._context.change(build)
            return row if request.validate_only else self._state.drill_runs.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _check_runnable(self, drill: drill_pb2.Drill) -> None:
        found = self._context.controller.drills.objections(drill.spec, self._context.steady())
        if found:
            raise failed_precondition("DRILL_REFUSED", f"{drill.name} cannot begin: {'; '.join(found)}")

    async def get_drill_run(self, request: drill_pb2.GetDrillRunRequest, caller: Caller) -> drill_pb2.DrillRun:
        parse(request.name, "drills/*/runs/*")
        return self._state.drill_runs.need(request.name)

    async def abort_drill_run(self, request: drill_pb2.AbortDrillRunRequest, caller: Caller) -> drill_pb2.DrillRun:
        parse(request.name, "drills/*/runs/*")
        if len(request.reason) > _REASON_MAX:
            raise invalid("reason", f"reason: at most {_REASON_MAX} characters")

        def build(batch: Batch) -> None:
            if not is_under_way(self._state.drill_runs.need(request.name)):
                raise failed_precondition("DRILL_RUN_ENDED", f"{request.name} has ended already")
            reason = f"{caller.principal}: {request.reason}" if request.reason else caller.principal
            self._context.controller.drills.abort(batch, request.name, reason, self._context.steady())

        await self._context.change(build)
        return self._state.drill_runs.need(request.name)

    async def list_drill_runs(
        self, request: drill_pb2.ListDrillRunsRequest, caller: Caller
    ) -> drill_pb2.ListDrillRunsResponse:
        parse(request.parent, "drills/*", "parent")
        self._state.drills.need(request.parent)
        rows = [
            (listing.number_key(int(last_part(name))), row)
            for name, row in self._state.drill_runs.items()
            if name.startswith(f"{request.parent}/")
        ]
        chosen, token = listing.page(request, sorted(rows, key=lambda row: row[0], reverse=True), descending=True)
        return drill_pb2.ListDrillRunsResponse(runs=chosen, next_page_token=token)
