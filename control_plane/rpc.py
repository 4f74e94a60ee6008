"""gRPC servers, derived from the list of services and their descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from control_plane import metrics
from control_plane.core.quota import Quotas
from control_plane.services.caller import ANONYMOUS, Caller
from control_plane.services.node_identity import authorise, peer_identity
from control_plane.services.registry import Service
from control_plane.state import State
from fleet.errors import Code, LocciError
from fleet.rpc.channel import SERVER_OPTIONS
from fleet.rpc.errors import abort
from locci.v1 import agent_pb2_grpc

log = structlog.get_logger()

ServicerContext = grpc.aio.ServicerContext[Any, Any]
Identify = Callable[[ServicerContext], Awaitable[Caller]]


def snake_case(name: str) -> str:
    """`ListRegions` as `list_regions`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def bearer(authenticate: Callable[[str], Awaitable[Caller]]) -> Identify:
    """Identifies callers by `authorization: Bearer …` metadata."""

    async def identify(context: ServicerContext) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token:
            message = "no token was sent: pass `authorization: Bearer TOKEN`"
            raise LocciError(Code.UNAUTHENTICATED, "NO_TOKEN", message)
        return await authenticate(token)

    return identify


def by_certificate(state: State) -> Identify:
    """Identifies nodes by their client certificate, and asks the store whether they are still trusted."""

    async def identify(context: ServicerContext) -> Caller:
        identity = peer_identity(context)
        authorise(state, identity)
        return Caller(f"nodes/{identity.node}", "node")

    return identify


async def anyone(context: ServicerContext) -> Caller:
    """Identifies nobody."""
    return ANONYMOUS


def handlers(service: Service, identify: Identify, quotas: Quotas | None = None) -> grpc.GenericRpcHandler:
    """The generic handler of a service; with `quotas` each caller is held to them."""
    methods = {method.name: _handler(method, service, identify, quotas) for method in service.descriptor.methods}
    result: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(service.descriptor.full_name, methods)
    return result


def _handler(
    method: MethodDescriptor, service: Service, identify: Identify, quotas: Quotas | None
) -> grpc.RpcMethodHandler[Any, Any]:
    implementation = getattr(service.implementation, snake_case(method.name))
    request_class = GetMessageClass(method.input_type)
    answer_class = GetMessageClass(method.output_type)
    # A conversation is a stream whose request is the iterator of what the caller says.
    make, behaviour = grpc.unary_unary_rpc_method_handler, _unary
    if method.server_streaming:
        both = method.client_streaming
        make = grpc.stream_stream_rpc_method_handler if both else grpc.unary_stream_rpc_method_handler
        behaviour = _stream
    return make(
        behaviour(implementation, identify, method.full_name, quotas),
        request_deserializer=request_class.FromString,
        response_serializer=answer_class.SerializeToString,
    )


@contextlib.contextmanager
def _within(quotas: Quotas | None, caller: Caller, *, watch: bool) -> Iterator[None]:
    """A request of a caller that is counted. Raises RESOURCE_EXHAUSTED."""
    if quotas is None:
        yield
        return
    quotas.enter(caller.principal, time.monotonic(), watch=watch)
    try:
        yield
    finally:
        quotas.leave(caller.principal, watch=watch)


def _unary(implementation: Any, identify: Identify, name: str, quotas: Quotas | None) -> Any:
    async def call(request: Any, context: ServicerContext) -> Any:
        begin = time.perf_counter()
        code = "OK"
        structlog.contextvars.bind_contextvars(client=context.peer())
        try:
            caller = await identify(context)
            with _within(quotas, caller, watch=False):
                return await implementation(request, caller)
        except LocciError as error:
            code = error.code.name
            await abort(context, error)
        except Exception:
            code = "INTERNAL"
            await abort(context, _internal(name))
        finally:
            metrics.REQUESTS.labels(name, code).observe(time.perf_counter() - begin)

    return call


def _stream(implementation: Any, identify: Identify, name: str, quotas: Quotas | None) -> Any:
    async def call(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
        answers: Any = None
        try:
            caller = await identify(context)
            with _within(quotas, caller, watch=True):
                answers = implementation(request, caller)
                async for answer in answers:
                    yield answer
        except LocciError as error:
            await abort(context, error)
        except Exception:
            await abort(context, _internal(name))
        finally:
            if answers is not None:
                await answers.aclose()

    return call


def _internal(name: str) -> LocciError:
    """What a caller learns of a fault of ours; the rest is in the log."""
    log.exception("request_failed", method=name)
    return LocciError(Code.INTERNAL, "INTERNAL", "the control plane failed on this request; its log says why")


class GrpcServers:
    """The operators' server and the nodes' server."""

    def __init__(self) -> None:
        self._operators = grpc.aio.server(options=SERVER_OPTIONS)
        self._nodes = grpc.aio.server(options=SERVER_OPTIONS)
        self._health = HealthServicer()
        self._shown = ((b"", b""), b"")
        self._edition = 0
        self.operator_port = 0
        self.node_port = 0

    async def start(
        self,
        services: Sequence[Service],
        sync: agent_pb2_grpc.AgentServiceServicer,
        state: State,
        authenticate: Callable[[str], Awaitable[Caller]],
        *,
        operator_listen: str,
        node_listen: str,
        quotas: Quotas,
    ) -> None:
        """Begins to listen; `show` comes first. Raises FAILED_PRECONDITION when an address cannot be had."""
        names = [service.descriptor.full_name for service in services]
        for service in services:
            if service.access == "public":
                self._operators.add_generic_rpc_handlers((handlers(service, anyone),))
            else:
                self._operators.add_generic_rpc_handlers((handlers(service, bearer(authenticate), quotas),))
            if service.access == "public":
                self._nodes.add_generic_rpc_handlers((handlers(service, by_certificate(state)),))
        agent_pb2_grpc.add_AgentServiceServicer_to_server(sync, self._nodes)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._operators)
        reflection.enable_server_reflection(
            [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME],
            self._operators,
        )
        self.operator_port = _listen(self._operators, operator_listen, self._credentials(mutual=False))
        self.node_port = _listen(self._nodes, node_listen, self._credentials(mutual=True))
        await self._operators.start()
        await self._nodes.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    def show(self, key_and_chain: tuple[bytes, bytes], ca_pem: bytes) -> None:
        """Shows this certificate on new connections, and takes those of nodes that `ca_pem` trusts."""
        if self._shown != (key_and_chain, ca_pem):
            self._shown = (key_and_chain, ca_pem)
            self._edition += 1

    def _credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """Credentials that follow `show`; asked anew with each handshake."""
        taken = self._edition

        def configuration() -> Any:
            key_and_chain, ca_pem = self._shown
            return grpc.ssl_server_certificate_configuration([key_and_chain], ca_pem if mutual else None)

        def changed() -> Any:
            nonlocal taken
            if taken == self._edition:
                return None
            taken = self._edition
            return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), changed, require_client_authentication=mutual)

    async def stop(self, grace_s: float) -> None:
        """Ends both within `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(self._operators.stop(grace_s), self._nodes.stop(grace_s))


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        port, reason = 0, str(error)
    else:
        reason = "in use, or not of this host"
    if port == 0:
        message = f"cannot listen on {address}: {reason}; change the setting or stop what listens there"
        raise LocciError(Code.FAILED_PRECONDITION, "ADDRESS_UNUSABLE", message)
    return port
