"""The program itself: its version, its folder, the one way into it, and its Python API.

`janus-batch VERB`, `python -m jobs VERB` and `python -P FOLDER/janus_batch.py VERB` all come through `main`. The last
one runs an installed, cloned or uploaded program from any folder. Python programs import this module, and nothing else
of the program: `render` and `open`. Importing it loads nothing else.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from actors.errors import InputError, JobFailure
    from jobs.api.output import Output

__all__ = ["VERSION", "InputError", "JobFailure", "Output", "open", "render"]

VERSION = "0.1.0"
INTERRUPTED = "janus-batch: interrupted; run the same command again to resume"
OLDEST_PYTHON = (3, 11)
ROOT = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Run the command line."""
    treat_sigterm_as_ctrl_c()
    try:
        run_command_line = _load_command_line()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(1)
    atexit.register(_ignore_signals)
    try:
        run_command_line()
    except SystemExit as end:
        _end_at_once_on_signals(end.code)
        raise


def treat_sigterm_as_ctrl_c() -> None:
    """Handle SIGTERM, which `kill`, Kubernetes and Ray's job server send, like a Ctrl-C.

    The signal is not passed on as SIGINT, because Ray starts job drivers with SIGINT blocked.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    signal.signal(signal.SIGTERM, interrupt)


def finish_despite_signals() -> None:
    """Let a signal no longer change how the program ends: its work is done, and it only tidies up and notifies."""
    _on_signals(lambda *_: None)  # not SIG_IGN, which the processes that it starts from here on would inherit


def _end_at_once_on_signals(code: Any) -> None:
    """Let a signal only save waiting: all is said, but Ray takes a second to shut down, or longer. What this process
    started ends with it.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    _on_signals(lambda *_: os._exit(code or 0))


def _ignore_signals() -> None:
    """At the very end, when Python removes its own handlers and a signal would kill the process."""
    _on_signals(signal.SIG_IGN)


def _on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _load_command_line() -> Callable[[], None]:
    if sys.version_info < OLDEST_PYTHON:  # of a cluster that runs the uploaded program, say
        needed, found = (".".join(map(str, version[:2])) for version in (OLDEST_PYTHON, sys.version_info))
        print(f"janus-batch: needs Python {needed} or later, {sys.executable} is Python {found}", file=sys.stderr)
        sys.exit(2)
    try:
        os.getcwd()
    except OSError:
        print("janus-batch: the current folder is gone or cannot be read; change to another folder", file=sys.stderr)
        sys.exit(2)
    try:
        own_packages_first()()
        from jobs.cli.main import main as run_command_line
        from jobs.terminal.streams import keep_streams
    except ImportError as error:
        print(f"janus-batch: {error}", file=sys.stderr)
        sys.exit(2)

    keep_streams()
    return run_command_line


# ---- the Python API --------------------------------------------------------------------------------------------------


def render(
    prompts: Any,
    *,
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    address: str | None = None,
    when_held: Literal["refuse", "wait", "ignore"] = "refuse",
    max_rejected: int | str | None = None,
    allow_empty: bool = False,
    progress: bool = True,
    **keys: Any,
) -> Output:
    """Render prompts and return the output. Call it again with the same arguments to resume.

        output = janus_batch.render(["a red fox"], checkpoint="janus-shapes", output="out", cfg_weight=7)

    * `prompts`: a list of texts; rows with the columns of a prompt file, as a list of dicts, a pandas or polars data
      frame or an Arrow table; or the path or URL of prompt files.
    * `checkpoint`, `output`: as in a job file.
    * `keys`: any other key of a job file. The settings of `sampling` by their own names (`cfg_weight`, `seed`,
      `images_per_prompt`), sections as dicts (`workers={"max": 2}`), and keys such as `name` and `shard_rows`.
    * `address`: the Ray cluster to join. A Ray that this process has initialized is used and left running; without
      either, Ray starts on this machine and ends with the call.
    * `when_held`: what to do while another run is writing to the output.
    * `max_rejected`: the most images that may be rejected, a number or a percentage such as "5%". `allow_empty`: do
      not fail if the prompts have no rows.
    * `progress`: show the progress. Without it, nothing is printed.

    Raises InputError for arguments that are refused, and JobFailure for a job that fails or is incomplete. Ctrl-C
    finishes the shards in flight and raises KeyboardInterrupt; a second one stops at once.
    """
    own_packages_first()()
    from jobs.api.render import render

    return render(
        prompts,
        checkpoint=checkpoint,
        output=output,
        address=address,
        when_held=when_held,
        max_rejected=max_rejected,
        allow_empty=allow_empty,
        progress=progress,
        keys=keys,
    )


def open(output: str | os.PathLike[str], *, endpoint_url: str | None = None) -> Output:
    """An output that exists, finished or not: its rows, images, rejected rows and settings. Reads storage only.

    `endpoint_url` is the address of an S3 store other than AWS. Raises InputError if it is no output.
    """
    own_packages_first()()
    from jobs.api.output import open_folder

    return open_folder(output, {} if endpoint_url is None else {"endpoint_url": endpoint_url})


def __getattr__(name: str) -> Any:
    """The classes of the API, which are imported when they are first named."""
    if name not in __all__:
        raise AttributeError(f"module 'janus_batch' has no attribute {name!r}")
    own_packages_first()()
    from actors.errors import InputError, JobFailure
    from jobs.api.output import Output

    return {"InputError": InputError, "JobFailure": JobFailure, "Output": Output}[name]


# ---- its packages ----------------------------------------------------------------------------------------------------


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
