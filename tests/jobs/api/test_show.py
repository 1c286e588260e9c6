"""How a render of the Python API is shown: lines and one line of progress in a notebook, or nothing."""

from __future__ import annotations

import logging
import sys
import time

import pytest

from jobs.api import show as show_module
from jobs.api.show import NotebookShow, SilentShow, showing
from workflows.dispatch.progress import Progress


def test_without_progress_nothing_is_printed_and_the_logger_has_the_lines(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "janus_batch")
    with showing("job", "out", has_progress=False) as show, show.progress(Progress(name="job")):
        show.line("starting Ray ...")

    assert isinstance(show, SilentShow)
    assert caplog.messages == ["starting Ray ..."]
    assert "".join(capfd.readouterr()) == ""


def test_a_notebook_gets_one_line_of_progress_and_a_line_for_each_trouble(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(show_module, "POLL_SECONDS", 0.02)
    progress = Progress(name="job", num_images_total=4)
    with showing("job", "out", has_progress=True) as show, show.progress(progress):
        progress.note("a shard is retried")
        time.sleep(0.2)

    assert isinstance(show, NotebookShow)
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 2
    assert "\rtrouble: a shard is retried" in out
    assert out.rstrip().rpartition("\r")[2].startswith("0/4 images")
