"""Open a report in the user's browser, where there is one."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from workflows.side_work import side_work
from workflows.storage.path import is_local


def open_report(url: str, say: Callable[[str], None]) -> None:
    """Show the page in a browser, in the background; where that is not possible, say where the page is."""
    if not is_local(url):
        say(f"open      {url} is on a store: a browser shows it from a web address of that store, or once you copy it")
    elif not _has_display():
        say(f"open      this machine has no display; the report is {url}")
    else:
        threading.Thread(target=_open, args=(url, say), daemon=True, name="browser").start()


def _has_display() -> bool:
    """Without one, Python's `webbrowser` may start a browser that takes over the terminal."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in names)


def _open(url: str, say: Callable[[str], None]) -> None:
    with side_work("the report was not opened", say):
        if not webbrowser.open(Path(url).as_uri()):
            say(f"open      no browser was found; the report is {url}")
