"""What a person sees of a running job."""

from __future__ import annotations

import time

import pytest

from jobs import view
from jobs.view import progress_line, watch
from workflows.progress import Progress


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """A job that has painted for a hundred seconds."""
    monkeypatch.setattr(time, "monotonic", lambda: 1100.0)
    return Progress(
        num_images_total=6528,
        num_images_before=894,
        num_images=310,
        num_painters=2,
        painting_since=1000.0,
        started_at=0.0,
    )


def test_the_line_says_how_much_is_done_how_fast_and_until_when(progress: Progress) -> None:
    assert progress_line(progress) == "1,204/6,528 images · 3.10 images/s · ETA 28:37 · 2 actors · 0 rejected"


def test_a_model_that_is_loading_has_neither_rate_nor_eta() -> None:
    assert progress_line(Progress(num_images_total=10)) == "0/10 images · loading the model · 0 actors · 0 rejected"


def test_trouble_is_shown_with_its_last_reason(progress: Progress) -> None:
    progress.num_painters, progress.num_rejected, progress.num_images = 1, 3, 307
    progress.num_retries, progress.last_trouble = 2, "OSError: the store is away"

    assert progress_line(progress).endswith("1 actor · 3 rejected · 2 retries (OSError: the store is away)")


@pytest.mark.parametrize(
    ("num_left", "eta"), [(0, "00:00"), (31, "00:10"), (11160, "1:00:00"), (3_100_000, "277:46:40")]
)
def test_the_eta_is_minutes_and_hours(progress: Progress, num_left: int, eta: str) -> None:
    progress.num_images_total = progress.num_done + num_left

    assert f"ETA {eta} ·" in progress_line(progress)


def test_there_is_no_eta_before_the_first_image(progress: Progress) -> None:
    progress.num_images = 0

    assert "0.00 images/s · ETA --:-- ·" in progress_line(progress)


def test_a_log_gets_a_line_now_and_then_and_the_last_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(view, "LOG_SECONDS", 0.01)
    progress = Progress(num_images_total=10)

    with watch(progress):
        while "0/10 images" not in (shown := capsys.readouterr()).err:
            time.sleep(0.005)
        progress.num_images = 10

    last = capsys.readouterr()
    assert last.err.splitlines()[-1].partition(" ")[2].startswith("10/10 images")
    assert shown.out == last.out == ""


def test_the_line_goes_on_until_the_end_of_a_job_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"the job failed"), watch(Progress(num_images_total=10)):
        raise RuntimeError("the job failed")

    assert "0/10 images" in capsys.readouterr().err


def test_a_terminal_gets_one_line_that_is_redrawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setattr(view, "LIVE_SECONDS", 0.01)
    progress = Progress(num_images_total=10)

    text = ""
    with watch(progress):
        while "0/10 images" not in text:
            time.sleep(0.005)
            text += capsys.readouterr().err
        progress.num_images = 7

    text += capsys.readouterr().err
    assert "0/10 images" in text
    assert text.endswith("7/10 images · loading the model · 0 actors · 0 rejected\n")
