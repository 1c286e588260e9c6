"""`render --open`: the report in a browser, and one line where there is none."""

from __future__ import annotations

import threading
import webbrowser

import pytest

from jobs.terminal.browser import open_report
from jobs.terminal.show import LogShow


@pytest.fixture(autouse=True)
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a display."""
    monkeypatch.setenv("DISPLAY", ":0")


def opened(monkeypatch: pytest.MonkeyPatch, *, is_possible: bool = True) -> tuple[list[str], threading.Event]:
    """The URLs that a browser is asked for, and an event for the first one."""
    urls, is_asked = [], threading.Event()

    def open_url(url: str) -> bool:
        urls.append(url)
        is_asked.set()
        return is_possible

    monkeypatch.setattr(webbrowser, "open", open_url)
    return urls, is_asked


def test_a_local_report_is_opened_by_its_file_url(monkeypatch: pytest.MonkeyPatch) -> None:
    urls, is_asked = opened(monkeypatch)
    open_report("/out/a b/report.html", print)
    assert is_asked.wait(10)
    assert urls == ["file:///out/a%20b/report.html"]


def test_a_report_on_a_store_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    urls, _ = opened(monkeypatch)
    open_report("s3://bucket/out/report.html", print)
    assert capsys.readouterr().out.startswith("open      s3://bucket/out/report.html is on a store: ")
    assert urls == []


def test_a_machine_without_a_display_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    urls, _ = opened(monkeypatch)
    open_report("/out/report.html", print)
    assert capsys.readouterr().out == "open      this machine has no display; the report is /out/report.html\n"
    assert urls == []


def test_a_machine_without_a_browser_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, is_possible=False)
    lines, is_said = [], threading.Event()
    open_report("/out/report.html", lambda line: (lines.append(line), is_said.set()))
    assert is_said.wait(10)
    assert lines == ["open      no browser was found; the report is /out/report.html"]


def test_the_report_is_opened_once_when_it_is_there_for_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    urls, is_asked = opened(monkeypatch)
    show = LogShow(opens_report=True)
    show.report("/out/report.html")
    assert is_asked.wait(10)
    show.report("/out/report.html")
    assert urls == ["file:///out/report.html"]
