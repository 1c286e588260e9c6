"""Load the YAML of a job file: text, numbers, booleans, lists and sections, of bounded size.

A duplicate key is an error. YAML libraries silently keep the last value.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from actors.errors import one_line

MAX_DEPTH, MAX_VALUES, MAX_DIGITS = 20, 10_000, 50
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
# YAML 1.1 reads 010 as 8 and 1:30 as 90, which surprises most people.
SURPRISE = re.compile(r"[-+]?(0[0-7_]+|[^:]*:.*)")
MERGE, DATE = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
# PyYAML's messages for these quote the value, which may be a secret that starts with `*` or `!`.
PLAIN_WORDS = {
    "found undefined alias": "an alias (*) without an anchor (&)",
    "found undefined tag handle": "an unknown tag (!)",
}


def load_yaml(text: str) -> Any:
    """The value in a YAML text. Raises ValueError with the line and the rule, but not the value: it may be a secret."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or "not valid"
        line = f"line {mark.line + 1}: " if mark else ""
        plain = next((words for start, words in PLAIN_WORDS.items() if problem.startswith(start)), problem)
        raise ValueError(line + one_line(" ".join(plain.split()))) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(one_line(" ".join(str(error).split()))) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which creates no Python objects, with the limits above."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._num_values, self._sizes = 0, 0, dict[int, int]()

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        """Compose one value; an alias counts as much as the value it repeats."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"more than {MAX_DEPTH} nested sections and lists", mark)
        before = self._num_values
        node = super().compose_node(parent, index)
        assert node is not None
        if is_alias and id(node) not in self._sizes:
            raise ConstructorError(None, None, "an alias (*) inside the value that it repeats", mark)
        self._num_values += self._sizes[id(node)] if is_alias else 1
        if self._num_values > MAX_VALUES:
            raise ConstructorError(None, None, f"more than {MAX_VALUES:,} values", mark)
        self._sizes[id(node)] = self._num_values - before
        self._depth -= 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag == DATE:
            raise ConstructorError(None, None, "YAML reads this value as a date; put it in quotes", node.start_mark)
        if node.tag not in TAGS:
            raise ConstructorError(None, None, "a type of value (!) that a job file cannot have", node.start_mark)
        if node.tag.endswith((":int", ":float")) and len(str(node.value)) > MAX_DIGITS:
            raise ConstructorError(None, None, f"a number of more than {MAX_DIGITS} digits", node.start_mark)
        if node.tag.endswith((":int", ":float")) and SURPRISE.fullmatch(str(node.value)):
            rule = (
                "YAML reads a number with a leading zero to base 8, and one with a colon to base 60; write it without"
            )
            raise ConstructorError(None, None, rule, node.start_mark)
        try:
            value = super().construct_object(node, deep)
            return _with_whole_characters(value) if isinstance(value, str) else value
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"the value is not of type {kind}", node.start_mark) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A section without duplicate keys."""
        seen = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode) or key.tag == MERGE:
                continue
            name = self.construct_object(key)
            if name in seen:
                raise ConstructorError(None, None, f"duplicate key `{one_line(key.value)}`", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _with_whole_characters(text: str) -> str:
    """JSON, which is YAML, may write a character as two halves: `"\\ud83d\\ude00"`. A half alone stays one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
