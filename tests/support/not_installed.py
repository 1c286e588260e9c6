"""A Python environment with everything that the project needs, and without the project."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from fnmatch import fnmatch
from pathlib import Path

OWN = ("janus_batch*", "janus-batch*", "__editable__*janus_batch*", "__editable___janus_batch*")
PACKAGES = ("actors", "workflows", "jobs")


def make_environment(folder: Path) -> Path:
    """Create the environment; returns the folder of its programs, `python` and `ray` among them.

    Every entry of this interpreter's site-packages is linked, except the project's own and `.pth` files, which may lead
    to it.
    """
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    links, programs = Path(paths["purelib"]), Path(paths["scripts"])
    for entry in (entry for place in _site_packages() for entry in place.iterdir()):
        is_own = entry.name in PACKAGES or any(fnmatch(entry.name, pattern) for pattern in OWN)
        if not is_own and entry.suffix != ".pth" and not (links / entry.name).exists():
            (links / entry.name).symlink_to(entry)
    ray = programs / "ray"
    ray.write_text(f"#!{programs / 'python'}\nfrom ray.scripts.scripts import main\nmain()\n")
    ray.chmod(0o755)
    _check(programs / "python", folder)
    return programs


def _site_packages() -> list[Path]:
    return [Path(place) for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]


def _check(python: Path, folder: Path) -> None:
    """Fail unless the dependencies are there and the project is not."""
    lines = (
        "import importlib.metadata, importlib.util, cronsim, pyarrow, ray",
        f"found = [name for name in {('janus_batch', *PACKAGES)} if importlib.util.find_spec(name)]",
        "found += [one.metadata['Name'] for one in importlib.metadata.distributions(name='janus-batch')]",
        "raise SystemExit(', '.join(found))",
    )
    result = subprocess.run([python, "-P", "-c", "\n".join(lines)], cwd=folder, env={}, capture_output=True, text=True)
    assert not result.stderr.strip(), result.stderr
