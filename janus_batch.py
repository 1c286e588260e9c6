"""The program itself: its version, its folder, and the one way into it.

`janus-batch VERB`, `python -m jobs VERB` and `python -P FOLDER/janus_batch.py VERB` all come through `main`. The last
one runs an installed, cloned or uploaded program from any folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

VERSION = "0.1.0"
ROOT = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Run the command line."""
    try:
        own_packages_first()()
    except ImportError as error:
        print(f"janus-batch: {error}", file=sys.stderr)
        sys.exit(2)
    from jobs.cli.main import main as run_command_line
    from jobs.terminal.streams import keep_streams

    keep_streams()
    run_command_line()


def own_packages_first() -> Callable[[], None]:
    """A function that imports this program's packages; this process calls it, and Ray calls it in each worker.

    `actors`, `workflows` and `jobs` are common names. Python would take a user's file of such a name from the current
    folder or from PYTHONPATH, and Ray puts both in front of its workers' search path. An imported package stays what
    it is, whatever comes first on the search path later. Raises ImportError if the user's is imported already.
    """
    root, root_from_here = ROOT, os.path.relpath(ROOT)

    # Nested, so that Ray sends the code itself: a worker cannot import it by name before it has run.
    def import_own_packages() -> None:
        import importlib.util
        import sys

        folders = [root, os.path.join(os.getcwd(), root_from_here)]  # on another node: unpacked into its own folder
        if installed := importlib.util.find_spec("janus_batch"):
            folders.append(os.path.dirname(str(installed.origin)))
        folder = next((folder for folder in folders if os.path.isfile(os.path.join(folder, "janus_batch.py"))), root)
        sys.path.insert(0, folder)
        try:
            for name in ("janus_batch", "actors", "workflows", "jobs"):
                package = importlib.import_module(name)
                place = os.path.realpath(package.__file__ or next(iter(package.__path__)))
                if not place.startswith(os.path.join(os.path.realpath(folder), name)):
                    raise ImportError(
                        f"{place} is in the way of janus-batch's own package `{name}`, because it was imported first; "
                        "rename it"
                    )
        finally:
            sys.path.remove(folder)

    return import_own_packages


if __name__ == "__main__":
    main()
