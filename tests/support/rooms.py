"""Reads the source of the three rooms and says where it breaks their rules. Imports nothing of what it reads."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = ("actors", "workflows", "jobs")
HEAVY = ("torch", "transformers", "diffusers")  # seconds to load, and absent from no GPU process: actors only
OTHER_FOLDERS = ("tests", "benchmarks", "examples")


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported name. `runs_at_import` is false inside a function and under `if TYPE_CHECKING`."""

    line: int
    module: str
    runs_at_import: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One parsed file; `path` is relative to the root of the project."""

    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.parts[0]

    @property
    def module(self) -> str:
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree.body, runs_at_import=True))


class Project:
    """The Python files under a root, by folder."""

    def __init__(self, root: Path) -> None:
        self.sources = [
            Source(path=path.relative_to(root), tree=ast.parse(path.read_bytes(), filename=str(path)))
            for folder in (*ROOMS, *OTHER_FOLDERS)
            for path in sorted((root / folder).rglob("*.py"))
        ]
        self.rooms = [source for source in self.sources if source.room in ROOMS]

    def imports_of_other_folders(self) -> list[str]:
        """Imports of a folder that is no room. Relative imports hide their room and count too."""
        return [
            f"{source.path}:{found.line} imports {found.module}"
            for source in self.rooms
            for found in source.imports
            if found.top in (*OTHER_FOLDERS, "")
        ]

    def crowded_folders(self, most: int) -> list[str]:
        """Folders of the rooms with more than `most` modules and packages, dunder files not counted."""
        entries: dict[Path, set[str]] = defaultdict(set)
        for source in self.rooms:
            for path in (source.path, *source.path.parents[:-2]):
                if path.name not in ("__init__.py", "__main__.py"):
                    entries[path.parent].add(path.stem)
        return [
            f"{folder} has {len(names)} entries, allowed are {most}"
            for folder, names in sorted(entries.items())
            if len(names) > most
        ]

    def imports_outside(self, package: str, allowed: tuple[str, ...]) -> list[str]:
        """Imports of `package` anywhere in a file that is not in, or is not, one of `allowed`."""
        return [
            f"{source.path}:{found.line} imports {found.module}"
            for source in self.rooms
            for found in source.imports
            if found.top == package and not any(source.path.is_relative_to(place) for place in allowed)
        ]

    def heavy_at_import_time(self, rooms: tuple[str, ...]) -> list[str]:
        """Modules of `rooms` whose import loads a heavy package, each with the chain of imports that leads to it."""
        return [
            " -> ".join(chain)
            for source in self.rooms
            if source.room in rooms and (chain := self._chain_to_heavy(source.module))
        ]

    def _chain_to_heavy(self, start: str) -> list[str] | None:
        """The shortest chain of imports that run when `start` is imported and end in a heavy package."""
        by_module = {source.module: source for source in self.rooms}
        waiting, seen = deque([[start]]), {start}
        while waiting:
            chain = waiting.popleft()
            for found in by_module[chain[-1]].imports:
                if found.runs_at_import and found.top in HEAVY:
                    return [*chain, found.module]
                if found.runs_at_import and found.module in by_module and found.module not in seen:
                    seen.add(found.module)
                    waiting.append([*chain, found.module])
        return None

    def packages_that_do_something(self) -> list[str]:
        """`__init__.py` files with more than a docstring."""
        inits = [source for source in self.sources if source.path.name == "__init__.py"]
        return [
            str(source.path)
            for source in inits
            if len(source.tree.body) > 1 or (source.tree.body and ast.get_docstring(source.tree) is None)
        ]

    def names_of_standard_modules(self) -> list[str]:
        """Files named like a module of the standard library: run as a script, their folder would shadow it."""
        return [str(source.path) for source in self.sources if source.path.stem in sys.stdlib_module_names]

    def code_from_checkpoints(self) -> list[str]:
        """Calls that let a downloaded checkpoint run code: unpickling with torch.load, and trust_remote_code."""
        return [
            f"{source.path}:{call.lineno} {rule}"
            for source in self.sources
            for call in ast.walk(source.tree)
            if isinstance(call, ast.Call) and (rule := _lets_a_checkpoint_run_code(call))
        ]


def _imports(body: list[ast.AST], runs_at_import: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "" if node.level else node.module
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            modules = []
        for module in modules:
            yield Import(line=node.lineno, module=module, runs_at_import=runs_at_import)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from _imports(list(ast.iter_child_nodes(node)), runs_at_import and not is_function and not is_for_types)


def _lets_a_checkpoint_run_code(call: ast.Call) -> str | None:
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if "trust_remote_code" in keywords:
        return "passes trust_remote_code"
    if ast.unparse(call.func) == "torch.load" and keywords.get("weights_only") != "True":
        return "calls torch.load without weights_only=True"
    return None
