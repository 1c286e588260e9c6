"""A notification reaches a URL or a command, and a receiver that does not take it is named without its URL."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.job_file.errors import JobFileError
from jobs.terminal import receiver
from jobs.terminal.receiver import Command, NotNotifiedError, WebHook, receiver_of
from tests.support.webhook import WebHookServer, webhook_server

DATA = b'{"text": "nightly done"}\n'


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebHookServer]:
    with webhook_server() as server:
        monkeypatch.setenv("HOOK", server.url)
        yield server


@pytest.mark.parametrize("on_done", ["$HOOK", "${HOOK}"])
def test_a_url_is_posted_to(hook: WebHookServer, on_done: str) -> None:
    receiver_of(on_done).take(DATA)

    assert hook.received == [{"text": "nightly done"}]


def test_a_command_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAME", "told.json")

    receiver_of('cat > "$NAME"; echo noise').take(DATA)

    assert (tmp_path / "told.json").read_bytes() == DATA


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "on_done: the environment variable HOOK is not set; it must hold an http"),
        ("", r"on_done: the environment variable HOOK must hold an http\(s\) URL$"),
        ("ftp://host/a-secret", r"HOOK must hold an http\(s\) URL$"),
        ("https://host/a secret", r"HOOK must hold an http\(s\) URL$"),
        ("https://host/a-secret\n", r"HOOK must hold an http\(s\) URL$"),
    ],
)
def test_a_variable_without_a_url_is_refused(monkeypatch: pytest.MonkeyPatch, url: str | None, message: str) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if url is not None:
        monkeypatch.setenv("HOOK", url)

    with pytest.raises(JobFileError, match=message):
        receiver_of("$HOOK")


def test_an_answer_that_is_an_error_has_its_status(hook: WebHookServer) -> None:
    hook.status = 404

    with pytest.raises(NotNotifiedError, match=r"^\$HOOK: HTTP status 404$"):
        receiver_of("$HOOK").take(DATA)


def test_a_server_that_does_not_answer_is_not_waited_for(hook: WebHookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.may_answer.clear()
    monkeypatch.setattr(receiver, "SECONDS", 0.3)

    with pytest.raises(NotNotifiedError, match=r"^\$HOOK: no answer within 0\.3 s$"):
        receiver_of("$HOOK").take(DATA)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a-secret", "http://[::1/a-secret", "http://host:port/a-secret"])
def test_a_url_that_leads_nowhere_is_not_shown(url: str) -> None:
    with pytest.raises(NotNotifiedError) as raised:
        WebHook(name="HOOK", url=url).take(DATA)

    assert str(raised.value).startswith("$HOOK: ")
    assert "a-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "the command ended with exit code 3$"),
        ("echo first >&2; echo no such room >&2; exit 4", "the command ended with exit code 4: no such room$"),
        ("no-such-program-at-all", "the command ended with exit code 127: .*not found"),
    ],
)
def test_a_command_that_fails_has_its_exit_code_and_last_words(command: str, message: str) -> None:
    with pytest.raises(NotNotifiedError, match=message):
        Command(command=command).take(DATA)


def test_a_command_that_reads_nothing_is_no_fault() -> None:
    Command(command="exec 0<&-; true").take(DATA * 100_000)


def test_a_command_that_does_not_end_is_killed_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    child = f'"{sys.executable}" -c "import time; time.sleep(2); open(chr(120), chr(119))"'

    with pytest.raises(NotNotifiedError, match=r"the command did not end within 0\.5 s"):
        Command(command=f"{child}; true").take(DATA)
    time.sleep(2)
    assert not (tmp_path / "x").exists()
