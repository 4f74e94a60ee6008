"""YAML as plain values that know their lines: no tags, no duplicate keys, no bombs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from cli.failure import USAGE, Failure

BYTES_MAX: Final = 1 << 20
NODES_MAX: Final = 50_000
DEPTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Document:
    """A document's value, and where each part of it is: `ports[0].container_port` to its line, counted from 1."""

    value: Any
    lines: Mapping[str, int]

    def line(self, path: str) -> int:
        """The line of a path, or of the nearest part around it that is there."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 1)


def read(text: str, file: str) -> list[Document]:
    """The documents of a file; empty ones are left out. Raises a Failure that names the file and the line."""
    if len(text) > BYTES_MAX:
        raise Failure(f"the file is larger than {BYTES_MAX} bytes", where=file, exit_code=USAGE)
    try:
        return list(_documents(yaml.SafeLoader(text), file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise Failure(f"this is not YAML: {error.problem or error.context}", where=where, exit_code=USAGE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        raise Failure(f"this is not YAML: {text}", where=file, exit_code=USAGE) from None


def _documents(loader: yaml.SafeLoader, file: str) -> Iterator[Document]:
    while loader.check_node():
        node = loader.get_node()
        if node is not None and not _is_empty(node):
            builder = _Builder(loader, file)
            yield Document(builder.build(node, "", 0), builder.lines)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class _Builder:
    """Makes values of one document's nodes."""

    def __init__(self, loader: yaml.SafeLoader, file: str):
        self.lines: dict[str, int] = {}
        self._loader = loader
        self._file = file
        self._count = 0

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        """The value of a node. Aliases are copied, within the bound on their number."""
        self._count += 1
        if self._count > NODES_MAX or depth > DEPTH_MAX:
            raise self._failure("this is too large or nested too deeply", node, "write less anchors and aliases")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        self._refuse_duplicates(node)
        self._loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            at = f"{path}.{key}" if path else key
            value = self.build(value_node, at, depth + 1)
            # What is merged in comes first: the mapping's own key wins, and its line with it.
            self.lines[at] = key_node.start_mark.line + 1
            self.lines[f"{path}[{key}]"] = key_node.start_mark.line + 1
            result[key] = value
        return result

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise self._failure(f"{key!r} is given twice", key_node, f"it is in line {seen[key]} already")
            seen[key] = key_node.start_mark.line + 1

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._failure("a key must be a string", node)
        if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise self._failure(f"the key {node.value!r} must be a string", node, "put it in quotes")
        return str(node.value)

    def _failure(self, what: str, node: yaml.Node, hint: str = "") -> Failure:
        where = f"{self._file}:{node.start_mark.line + 1}"
        return Failure(what, where=where, hint=hint, exit_code=USAGE)
