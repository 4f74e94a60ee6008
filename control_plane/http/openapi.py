"""The OpenAPI 3.1 document of the JSON API, derived from the descriptors and the contract's comments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Final

from control_plane.http import comments, problems
from control_plane.http.routes import Route, build, snake_case
from control_plane.http.schema import Schemas
from control_plane.services.registry import Service

_ABOUT: Final = """\
Every method of the contract `locci.v1`, as JSON over HTTPS.

* Names are those of the contract, in snake_case; 64-bit numbers are strings in answers and taken as either.
* Answers hold every field, also those at their zero value; a message that is absent was never set.
* A PATCH without `update_mask` changes the fields that its body names.
* Errors are problem documents (RFC 9457): act on `code` and `reason`, show `detail` to people.
* Methods that stream answer with server-sent events: `data` is the JSON of one message, `id` its revision or sequence;
  `event: end` closes a stream that is complete, `event: error` carries a problem document. Connect again with
  `Last-Event-ID` after anything else.
* Every answer carries `X-Request-Id`; send one (up to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`) to have it used.
"""


def build_document(services: Sequence[Service]) -> dict[str, Any]:
    """The document as a JSON value."""
    schemas = Schemas(comments.load(), "#/components/schemas/", closed=False)
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(build(services).routes, key=lambda route: (route.template.text, route.http_method)):
        path, parameters = template_path(route)
        paths.setdefault(path, {})[route.http_method.lower()] = _operation(route, parameters, schemas)
    paths |= _pages()
    schemas.definitions["Problem"] = _problem_schema()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Locci", "version": _version(), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": service.descriptor.name, "description": comments.load().get(service.descriptor.full_name, "")}
            for service in services
            if service.access != "node"
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.definitions.items())),
            "responses": _problem_responses(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "locciop1.ID.SECRET",
                    "description": "An operator token.",
                }
            },
        },
    }


def encode(services: Sequence[Service]) -> bytes:
    """The document as it is served."""
    return json.dumps(build_document(services), ensure_ascii=False).encode()


def _version() -> str:
    try:
        return metadata.version("locci-cloud")
    except metadata.PackageNotFoundError:
        return "0"


def template_path(route: Route) -> tuple[str, list[str]]:
    """The path as OpenAPI writes it, as in `/v1/apps/{app}/releases/{release}`, and the names in braces."""
    text = re.sub(r"\{[a-z0-9_.]+=([^{}]+)\}", r"\1", route.template.text)
    names: list[str] = []

    def name(found: re.Match[str]) -> str:
        names.append(snake_case(found[1]).removesuffix("s"))
        return f"{found[1]}/{{{names[-1]}}}"

    return re.sub(r"([A-Za-z]+)/\*", name, text), names


def _operation(route: Route, names: list[str], schemas: Schemas) -> dict[str, Any]:
    about = comments.load().get(route.method.full_name, "")
    operation: dict[str, Any] = {
        "operationId": f"{route.method.containing_service.name}_{route.method.name}",
        "tags": [route.method.containing_service.name],
        "summary": re.split(r"(?<=[.;:]) ", about)[0].rstrip(".;:"),
        "description": about,
        "parameters": [_path_parameter(name) for name in names] + _query_parameters(route, schemas),
        "responses": {"200": _answer(route, schemas), **_problems(route)},
    }
    if route.body:
        operation["requestBody"] = _body(route, schemas)
    if route.access == "public":
        operation["security"] = []
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": "^[^/:]+$", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(route: Route, schemas: Schemas) -> list[dict[str, Any]]:
    if route.body == "*":
        return []
    taken = {path.split(".")[0] for path in route.template.variables} | {route.body}
    result = []
    for field in route.input.fields:
        if field.name not in taken:
            schema = schemas.field(field)
            about = schema.pop("description")
            required = field.name in schemas.message(route.input).get("required", [])
            parameter = {
                "name": field.name,
                "in": "query",
                "description": about,
                "required": required,
                "schema": schema,
            }
            result.append(parameter)
    return result


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    if route.body == "*":
        bound = frozenset(path.split(".")[0] for path in route.template.variables)
        schema = schemas.message(route.input, without=bound)
    else:
        schema = schemas.field(route.input.fields_by_name[route.body])
        schema.pop("description", None)
    return {
        "required": bool(schema.get("required")) or route.body != "*",
        "content": {"application/json": {"schema": schema}},
    }


def _answer(route: Route, schemas: Schemas) -> dict[str, Any]:
    kind = "text/event-stream" if route.streaming else "application/json"
    about = comments.load().get(route.method.output_type.full_name, "Nothing more to say.")
    content = {kind: {"schema": schemas.reference(route.method.output_type)}}
    return {"description": about, "headers": dict(_HEADERS), "content": content}


_PROBLEMS: Final = {
    "400": ("BadRequest", "The request is wrong, or the state of the fleet does not allow it."),
    "401": ("Unauthenticated", "No token, or one that is not valid."),
    "403": ("PermissionDenied", "The token's role does not allow it."),
    "404": ("NotFound", "What was named does not exist."),
    "409": ("Conflict", "It exists already, or was changed meanwhile (`ETAG_MISMATCH`)."),
    "429": ("TooManyRequests", "Too many requests with this token; `Retry-After` says when to come back."),
    "503": ("Unavailable", "Not ready, or overloaded; try again."),
}


def _problems(route: Route) -> dict[str, Any]:
    """The errors that a method may answer with."""
    creates = route.http_method != "GET"
    without = {"404"} if not route.template.variables and not creates else set()
    without |= set() if creates else {"409"}
    named = {status: {"$ref": f"#/components/responses/{name}"} for status, (name, _) in _PROBLEMS.items()}
    return {**{status: named[status] for status in named if status not in without}, "default": _PROBLEM_RESPONSE}


def _problem_responses() -> dict[str, Any]:
    result: dict[str, Any] = {
        name: {**_PROBLEM_RESPONSE, "description": text, "headers": dict(_HEADERS)} for name, text in _PROBLEMS.values()
    }
    seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait before the next try."}
    result["TooManyRequests"]["headers"]["Retry-After"] = seconds
    return result


_HEADERS: Final = {
    "X-Request-Id": {"schema": {"type": "string"}, "description": "The id of the request, as in the log."},
}
_PROBLEM_RESPONSE: Final = {
    "description": "What went wrong.",
    "content": {problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _problem_schema() -> dict[str, Any]:
    texts = {
        "type": "A URI of the kind of problem.",
        "title": "The kind of problem in words.",
        "detail": "What is wrong, where, and what to do.",
        "instance": "The path of the request.",
        "code": "The canonical code, as in NOT_FOUND (google.rpc.Code).",
        "reason": "A stable word for programs, as in UNKNOWN_FIELD.",
        "request_id": "The id of the request, as in the control plane's log.",
        "field": "The part of the request that is at fault, as in `manifest.ports[0].container_port`.",
    }
    properties: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in texts.items()}
    properties["status"] = {"type": "integer", "description": "The HTTP status."}
    parts = {"field": {"type": "string"}, "detail": {"type": "string"}}
    properties["errors"] = {
        "type": "array",
        "items": {"type": "object", "properties": parts, "required": ["field", "detail"]},
        "description": "Every part of the request that is at fault, each with what is wrong with it.",
    }
    properties["metadata"] = {"type": "object", "additionalProperties": {"type": "string"}, "description": "Details."}
    required = ["type", "title", "status", "detail", "instance", "code", "reason", "request_id"]
    about = "A problem document (RFC 9457)."
    return {"type": "object", "description": about, "properties": properties, "required": required}


def _pages() -> dict[str, Any]:
    pages = {
        "/healthz": ("The process answers", "application/json"),
        "/readyz": ("The control plane is ready; 503 while it is not", "application/json"),
        "/metrics": ("Metrics in Prometheus' text format", "text/plain"),
        "/openapi.json": ("This document", "application/json"),
    }
    return {
        path: {
            "get": {
                "operationId": "get_" + re.sub(r"\W", "_", path.strip("/")),
                "summary": about,
                "security": [],
                "responses": {
                    "200": {"description": about, "content": {kind: {}}},
                    "default": _PROBLEM_RESPONSE,
                },
            }
        }
        for path, (about, kind) in pages.items()
    }
