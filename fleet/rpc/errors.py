"""The taxonomy of errors on gRPC: `google.rpc.Status` with `ErrorInfo` and `BadRequest` (AIP-193)."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from fleet.errors import DOMAIN, Code, LocciError


def to_status(error: LocciError) -> status_pb2.Status:
    """The status that carries `error` whole."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    details = [info]
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
            for field, text in error.violations
        ]
        bad_request = any_pb2.Any()
        bad_request.Pack(error_details_pb2.BadRequest(field_violations=violations))
        details.append(bad_request)
    return status_pb2.Status(code=error.code.value.grpc, message=error.message, details=details)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: LocciError) -> None:
    """Ends the call with `error`; never returns normally."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


def from_rpc_error(error: grpc.RpcError) -> LocciError:
    """The error that a call ended with."""
    status = rpc_status.from_call(error)
    if status is None:
        number, _ = error.code().value
        return LocciError(Code.from_grpc(number), code_pb2.Code.Name(number), error.details() or "")
    reason, field, metadata = code_pb2.Code.Name(status.code), "", {}
    for detail in status.details:
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
    return LocciError(Code.from_grpc(status.code), reason, status.message, field=field, metadata=metadata)
