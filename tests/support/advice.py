"""Reads the messages in the program's source and says which commands, options, keys, files and variables that they
advise do not exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import huggingface_hub.constants
import huggingface_hub.utils._auth

from jobs.cli.main import cli
from jobs.job_file.sections.base import section_of
from jobs.job_file.spec import JobSpec
from workflows.output.manifest import MANIFEST_SCHEMA, REJECTED_SCHEMA
from workflows.prompts import COLUMN_TYPES

ROOT = Path(__file__).parents[2]
SECTIONS = {name: section_of(field.annotation) for name, field in JobSpec.model_fields.items()}
KEYS = {
    *(f"{name}.{key}" for name, section in SECTIONS.items() if section for key in section.model_fields),
    *("storage.conditional_create", "storage.endpoint_url"),  # of the store's options, those that the docs name
}

# Options of other programs, by a word that names the program in the same message.
OTHER_OPTIONS = {
    "evaluate_images.py": {"--outfile"},  # GenEval
    "compute_dpg_bench.py": {"--image-root-path", "--resolution", "--pic-num"},  # DPG-Bench
}
# Words that follow the program's name in a sentence, and in the labels that seeds are hashed with.
PROSE = {
    *("can", "cannot", "does", "has", "is", "itself", "knows", "made", "needs", "puts", "sets", "takes", "that"),
    *("reads", "writes", "wrote", "seed", "candidate"),
}
# Single words in backticks that are neither keys nor columns: fields of Ray's runtime environment, parts of tables
# that others write, and libraries.
OTHER_WORDS = {"datasets", "excludes", "metadata"}
# Variables that Ray reads and this program only sets.
RAY_VARIABLES = {"RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_IGNORE_UNHANDLED_ERRORS", "RAY_USAGE_STATS_ENABLED"}

_COMMAND = re.compile(r"janus-batch ([a-z][a-z-]*)([^`;\n]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_KEY = re.compile(r"(?<![\w/.-])(?:images|judge|model|sampling|schedule|storage|workers)\.(?!(?:md|sqlite)\b)[a-z]\w*")
_WORD_IN_BACKTICKS = re.compile(r"`([a-z]\w*)`")
_FILE = re.compile(r"(?<![\w/.-])(?:deploy|docs|examples|tests)/(?:[\w-]+/)*[\w-]+\.\w+")
_MODULE = re.compile(r"python -m ([\w.]+)")
_VARIABLE = re.compile(r"\b(?:JANUS_BATCH|RAY|HF)_[A-Z_]+\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A string of the source; each value of an f-string is {}."""

    line: int
    text: str


def wrong_advice(sources: dict[str, str]) -> list[str]:
    """Each thing that a message of these sources (path: text) advises and that does not exist."""
    trees = {path: ast.parse(text, filename=path) for path, text in sources.items()}
    variables = {name for tree in trees.values() for name in variables_read(tree)}
    return [
        f"{path}:{message.line} {fault}"
        for path, tree in trees.items()
        for message in messages_of(tree)
        for fault in faults_of(message.text, variables)
    ]


def messages_of(tree: ast.Module) -> Iterator[Message]:
    """Every string but docstrings. The docstring of a verb is its --help, so it counts as a message."""
    helps = {id(node.body[0]) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _is_verb(node)}
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and id(node) not in helps]
    return _messages_below(tree, {id(statement.value) for statement in statements})


def faults_of(text: str, variables: Iterable[str]) -> Iterator[str]:
    """What this message names and does not exist. `variables` are those that the program reads."""
    options = {verb: options_of(verb) for verb in cli.commands}
    others = [names for program, names in OTHER_OPTIONS.items() if program in text]
    known = set().union(*options.values(), *others)
    yield from (f"no verb has {option}" for option in sorted(set(_OPTION.findall(text)) - known))
    for verb, arguments in _COMMAND.findall(text):
        if verb in options:
            wrong = known & set(_OPTION.findall(arguments)) - options[verb]
            yield from (f"`janus-batch {verb}` has no {option}" for option in sorted(wrong))
        elif verb not in PROSE:
            yield f"janus-batch has no verb {verb}"
    yield from (f"a job file has no {key}" for key in sorted(set(_KEY.findall(text)) - KEYS))
    yield from (f"`{word}` is no key or column" for word in sorted(set(_WORD_IN_BACKTICKS.findall(text)) - _WORDS))
    yield from (f"there is no {name}" for name in _FILE.findall(text) if not (ROOT / name).is_file())
    yield from (f"there is no module {name}" for name in _MODULE.findall(text) if not _is_module(name))
    read = {*variables, *RAY_VARIABLES, *_HUB_VARIABLES}
    yield from (f"no program reads {name}" for name in sorted(set(_VARIABLE.findall(text)) - read))


def options_of(verb: str) -> set[str | None]:
    """The options of a verb, and None; nothing for a verb that does not exist."""
    command = cli.get_command(click.Context(cli), verb)
    if verb.startswith("-") or command is None:
        return {None} if verb in ("VERB", "--help", "--version") else set()
    return {None, "--help", *(option for parameter in command.params for option in parameter.opts)}


def variables_read(tree: ast.Module) -> Iterator[str]:
    """The environment variables that a source reads: from os.environ, as an `envvar` of click, or from a tuple."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            yield from _strings(node.args[0])
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield from _strings(node.slice)
        elif isinstance(node, ast.keyword | ast.Assign) and _names_variables(node):
            yield from _strings(node.value)


def _messages_below(node: ast.AST, docstrings: set[int]) -> Iterator[Message]:
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        yield Message(line=node.lineno, text="".join(parts))
        children: list[ast.AST] = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
        yield Message(line=node.lineno, text=node.value)
    for child in children:
        yield from _messages_below(child, docstrings)


def _is_verb(function: ast.FunctionDef) -> bool:
    return any(re.match(r"cli\.command|click\.group", ast.unparse(each)) for each in function.decorator_list)


def _names_variables(node: ast.keyword | ast.Assign) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "envvar"
    return ast.unparse(node.targets[0]).endswith("_VARIABLES")


def _strings(node: ast.AST) -> list[str]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


_HUB_SOURCES = [inspect.getsource(module) for module in (huggingface_hub.constants, huggingface_hub.utils._auth)]
_HUB_VARIABLES = set(re.findall(r'"(HF_\w+)"', "".join(_HUB_SOURCES)))
_WORDS = {
    *(key for key in SECTIONS),
    *(key.partition(".")[2] for key in KEYS),
    *(*COLUMN_TYPES, *MANIFEST_SCHEMA.names, *REJECTED_SCHEMA.names),
    *OTHER_WORDS,
}
