"""Which path leads to which method of the contract, from the `google.api.http` options in the descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.api import http_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from control_plane.http import problems
from control_plane.http.templates import Template, compile_template
from control_plane.services.registry import Access, Service
from fleet.contract import http_rule

_VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Route:
    """One binding of a method. `body` is `*`, a field's name, or empty when the method takes no body."""

    http_method: str
    template: Template
    body: str
    method: MethodDescriptor
    request_class: type[Message]
    call: Any
    access: Access

    @property
    def input(self) -> Descriptor:
        """The request message's descriptor."""
        return self.method.input_type

    @property
    def streaming(self) -> bool:
        """Whether the method answers with a stream."""
        return bool(self.method.server_streaming)

    @property
    def label(self) -> str:
        """Service and method, for logs and metrics."""
        return f"{self.method.containing_service.name}/{self.method.name}"


@dataclass(frozen=True, slots=True)
class Match:
    """A route with what the path binds."""

    route: Route
    variables: Mapping[str, str]


class RouteTable:
    """All routes. Those with more literal text are tried first."""

    def __init__(self, routes: Iterable[Route]):
        self.routes: Sequence[Route] = sorted(routes, key=lambda route: -len(_literal(route.template.text)))

    def match(self, http_method: str, raw_path: str) -> Match:
        """The route of a request. Raises 404, or 405 with what is allowed; HEAD is taken as GET."""
        wanted = "GET" if http_method == "HEAD" else http_method
        allowed: set[str] = set()
        for route in self.routes:
            variables = route.template.match(raw_path)
            if variables is None:
                continue
            if route.http_method == wanted:
                return Match(route, variables)
            allowed.add(route.http_method)
        if allowed:
            raise problems.method_not_allowed(http_method, with_head(allowed))
        raise problems.no_such_path(raw_path)


def with_head(allowed: Iterable[str]) -> list[str]:
    """The methods in order, and HEAD where there is GET."""
    methods = set(allowed)
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def build(services: Iterable[Service]) -> RouteTable:
    """The routes of all services but the nodes'; methods without an HTTP rule have none.

    Raises TypeError when an implementation lacks a method or a rule binds what the request does not have.
    """
    return RouteTable(route for service in services if service.access != "node" for route in _routes(service))


def snake_case(name: str) -> str:
    """`ListApps` as `list_apps`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _routes(service: Service) -> Iterator[Route]:
    for method in service.descriptor.methods:
        rule = http_rule(method)
        if rule is None:
            continue
        call = getattr(service.implementation, snake_case(method.name), None)
        if call is None:
            raise TypeError(f"{service.descriptor.full_name} is implemented without {snake_case(method.name)}")
        for binding in (rule, *rule.additional_bindings):
            yield _route(binding, method, call, service.access)


def _route(rule: http_pb2.HttpRule, method: MethodDescriptor, call: Any, access: Access) -> Route:
    verb = rule.WhichOneof("pattern")
    if verb not in _VERBS:
        raise TypeError(f"{method.full_name}: {verb} bindings are not served")
    template = compile_template(getattr(rule, verb))
    for path in (*template.variables, *([rule.body] if rule.body not in ("", "*") else [])):
        if path.split(".")[0] not in method.input_type.fields_by_name:
            raise TypeError(f"{method.full_name}: {path} is not a field of {method.input_type.name}")
    return Route(verb.upper(), template, rule.body, method, GetMessageClass(method.input_type), call, access)


def _literal(template: str) -> str:
    return re.sub(r"[{}*]", "", template)
