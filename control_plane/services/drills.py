"""Drills: declared faults, and the runs that measured them."""

from __future__ import annotations

from google.protobuf import empty_pb2

from control_plane import decode
from control_plane.core.drills import Objectives, judge
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import already_exists, invalid
from fleet.ids import check_hostname, check_id, last_part, parse
from locci.v1 import drill_pb2, event_pb2

_ID_LENGTH_MAX = 60
_MARKS_MAX = 1_000


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
            self._check(row.spec)

            def build(batch: Batch) -> None:
                if row.name in self._state.drills:
                    raise already_exists(row.name)
                batch.put(self._state.drills, row.name, row, 0)
                batch.event("DrillCreated", f"{caller.principal} declared {row.name}", row.name)

            await self._context.change(build)
            return self._state.drills.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _check(self, spec: drill_pb2.DrillSpec) -> None:
        kind, _, target = spec.target.partition("/")
        regional = spec.fault == drill_pb2.FAULT_KIND_REGION_CUT
        if spec.fault == drill_pb2.FAULT_KIND_UNSPECIFIED:
            raise invalid("drill.spec.fault", "drill.spec.fault: say what is broken, as in FAULT_KIND_REGION_CUT")
        if not target or kind != ("regions" if regional else "nodes"):
            form = "regions/{region}" if regional else "nodes/{node}"
            raise invalid("drill.spec.target", f"drill.spec.target: {spec.target!r} is not of the form {form}")
        (self._state.regions if regional else self._state.nodes).need(spec.target)
        if (spec.fault == drill_pb2.FAULT_KIND_PROGRAM_KILLED) != bool(spec.program):
            path = "drill.spec.program"
            raise invalid(path, f"{path}: name the program when one is killed, and only then")
        check_hostname(spec.hostname, "drill.spec.hostname")

    async def delete_drill(self, request: drill_pb2.DeleteDrillRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "drills/*")

        def build(batch: Batch) -> None:
            self._state.drills.need(request.name)
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

            def build(batch: Batch) -> str:
                drill = self._state.drills.copy(request.parent)
                row = self._run(drill, request.run)
                drill.last_run = row.name
                batch.put(self._state.drill_runs, row.name, row, 0)
                batch.put(self._state.drills, drill.name, drill)
                verdict = "passed" if row.passed else f"failed: {'; '.join(row.failures)}"
                severity = event_pb2.SEVERITY_INFO if row.passed else event_pb2.SEVERITY_ERROR
                message = f"{row.name} {verdict}"
                batch.event("DrillRunRecorded", message, row.name, drill.name, row.spec.target, severity=severity)
                return row.name

            return self._state.drill_runs.need(await self._context.change(build))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _run(self, drill: drill_pb2.Drill, given: drill_pb2.DrillRun) -> drill_pb2.DrillRun:
        numbers = (int(last_part(n)) for n in self._state.drill_runs if n.startswith(f"{drill.name}/"))
        row = drill_pb2.DrillRun()
        row.CopyFrom(given)
        row.name = f"{drill.name}/runs/{1 + max(numbers, default=0)}"
        row.spec.CopyFrom(drill.spec)
        row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
        marks: dict[str, float] = {}
        for mark in given.marks:
            marks.setdefault(mark.stage, mark.after.seconds + mark.after.nanos / 1e9)
        spec = drill.spec
        objectives = Objectives(
            withdraw_s=spec.withdraw_objective.seconds + spec.withdraw_objective.nanos / 1e9 or 3.0,
            reroute_s=spec.reroute_objective.seconds + spec.reroute_objective.nanos / 1e9 or 10.0,
        )
        row.failures[:] = judge(objectives, marks)
        row.passed = not row.failures
        return row

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
