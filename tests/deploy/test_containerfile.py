"""deploy/Containerfile: no image is built here, but what it copies is there, and is what the project installs from."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
COPIED = [
    (source, line.split()[-1])
    for line in LINES
    if line.startswith("COPY ")
    for source in [word for word in shlex.split(line)[1:-1] if not word.startswith("--")]
]
IGNORED = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().split()}


def test_everything_it_copies_is_there_and_is_not_ignored() -> None:
    assert [source for source, _ in COPIED if not (ROOT / source).exists()] == []
    assert not IGNORED & {source for source, _ in COPIED}


def test_it_copies_what_the_project_is_installed_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed |= {f"{name}.py" for name in project["tool"]["setuptools"]["py-modules"]}
    assert needed <= {source for source, _ in COPIED}
    (folder,) = (line.split()[1] for line in LINES if line.startswith("WORKDIR"))
    assert all(target.rstrip("/").startswith(folder) for _, target in COPIED)


def test_it_installs_with_the_pins_and_runs_no_unknown_instruction() -> None:
    known = {"ARG", "FROM", "COPY", "WORKDIR", "RUN", "ENV"}
    assert {line.split()[0] for line in LINES if line and not line.startswith("#")} == known
    (run,) = (line for line in LINES if line.startswith("RUN"))
    assert "-c constraints.txt" in run
