"""A user's files that are named like the program's packages, and that fail when something imports them."""

from __future__ import annotations

from pathlib import Path

NAMES = ("actors", "workflows", "jobs")
IN_THE_WAY = "raise RuntimeError('the user's own file was imported')\n"


def as_modules(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(IN_THE_WAY)


def as_packages(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(IN_THE_WAY)


def as_folders(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Without `__init__.py`; Python takes these for packages, too."""
    for name in names:
        (folder / name).mkdir()
        (folder / name / "recipe.py").write_text(IN_THE_WAY)
