"""What a running job shows to people and to programs."""

from __future__ import annotations

import json
import time

import pytest
from rich.console import Console

from jobs.terminal.lines import progress_line
from jobs.terminal.live_view import live_view
from jobs.terminal.show import JsonShow, LogShow, showing
from workflows.dispatch.progress import Progress


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 940.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def progress() -> Progress:
    """A job that has rendered for a hundred seconds with two actors."""
    clock = Clock()
    progress = Progress(num_images_total=6528, num_images_before=894, clock=clock)
    clock.now = 1000.0
    for device in ("NVIDIA H200", "NVIDIA H100"):
        slot = progress.add_slot()
        progress.actor_is_ready(slot, device, "3f2a9c7e55")
        slot.state = "rendering"
    clock.now = 1100.0
    progress.images_are_written(progress.slots[0], 210, 0, 1_700_000_000_000_000)
    progress.images_are_written(progress.slots[1], 100, 0, 1_700_000_050_000_000)
    return progress


def drawn(progress: Progress, width: int, height: int = 24) -> list[str]:
    """The lines of the live view on a terminal of this size."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(live_view(progress, width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_line_gives_the_images_the_throughput_and_the_eta(progress: Progress) -> None:
    assert progress_line(progress) == "1,204/6,528 images · 3.10 images/s · ETA 28:37 · 2 actors · 0 rejected"


def test_the_last_line_gives_the_totals(progress: Progress) -> None:
    assert progress_line(progress, is_over=True) == "1,204/6,528 images · 2.00 images/s · 0 rejected"


def test_a_model_that_is_loading_has_neither_throughput_nor_eta() -> None:
    progress = Progress(num_images_total=10)
    slot = progress.add_slot()
    assert progress_line(progress) == "0/10 images · starting · 0 actors · 0 rejected"
    progress.room_is_lacking(1)
    assert progress_line(progress) == "0/10 images · waiting for room on the cluster · 0 actors · 0 rejected"
    slot.is_started()
    assert progress_line(progress) == "0/10 images · loading the model · 0 actors · 0 rejected"


def test_retries_and_lost_actors_are_counted(progress: Progress) -> None:
    progress.shard_is_retried("OSError: the store is away")
    progress.actor_is_lost(progress.slots[0], "its node went away")

    assert progress_line(progress).endswith("1 actor · 0 rejected · 1 retry · 1 actor lost")


def test_the_live_view_has_a_row_for_each_actor(progress: Progress) -> None:
    bar, numbers, first, second = drawn(progress, 100)

    assert bar.startswith("━")
    assert bar.endswith("  1,204/6,528 images  18 %")
    assert numbers.replace("\u00a0", " ") == "3.10 images/s · ETA 28:37 · 02:40 so far · 0 rejected · 0 retries"
    assert first.split(maxsplit=5) == ["1", "rendering", "2.10/s", "210", "images", "NVIDIA H200 on 3f2a9c7e"]
    assert second.split()[:3] == ["2", "rendering", "1.00/s"]


def test_a_lost_actor_shows_the_reason_and_the_last_trouble_is_shown_below(progress: Progress) -> None:
    progress.actor_is_lost(progress.slots[1], "its node went away")

    lines = drawn(progress, 100)

    assert lines[3].split(maxsplit=4) == ["2", "lost", "100", "images", "its node went away"]
    assert lines[4].startswith("last trouble ")
    assert lines[4].endswith("  its node went away")


@pytest.mark.parametrize("width", [30, 44, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(progress: Progress, width: int) -> None:
    progress.actor_is_lost(progress.slots[1], "a long reason " * 20)

    lines = drawn(progress, width)

    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 8
    assert any("1,204/6,528" in line for line in lines)


def test_a_pool_that_does_not_fit_shows_slots_in_trouble_and_counts_the_rest(progress: Progress) -> None:
    for _ in range(60):
        progress.actor_is_ready(progress.add_slot(), "cpu", "n")
    for slot in progress.slots[2:]:
        slot.state = "rendering"
    for _ in range(5):
        progress.add_slot()
    progress.room_is_lacking(5)
    progress.actor_is_lost(progress.slots[40], "its node went away")

    lines = drawn(progress, 100, height=14)

    assert len(lines) <= 14
    assert any(line.split()[:2] == ["41", "lost"] for line in lines)
    assert "and 56 rendering, 5 waiting for room on the cluster" in lines


@pytest.mark.parametrize(
    ("num_left", "eta"), [(0, "00:00"), (31, "00:10"), (11160, "1:00:00"), (3_100_000, "277:46:40")]
)
def test_the_eta_is_in_minutes_and_hours(progress: Progress, num_left: int, eta: str) -> None:
    progress.num_images_total = progress.num_done + num_left

    assert f"ETA {eta} ·" in progress_line(progress)


def test_there_is_no_eta_before_the_first_image(progress: Progress) -> None:
    progress.images_are_taken_back(progress.slots[0], 310)

    assert "0.00 images/s · ETA --:-- ·" in progress_line(progress)


def test_a_log_gets_a_line_at_intervals_and_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(num_images_total=10)

    with LogShow(poll_seconds=0.005, shortest_seconds=0.01).progress(progress):
        while "0/10 images" not in (shown := capsys.readouterr()).err:
            time.sleep(0.005)
        progress.num_images = 10

    last = capsys.readouterr()
    assert last.err.splitlines()[-1].partition(" ")[2].startswith("10/10 images")
    assert shown.out == last.out == ""


def test_a_trouble_is_logged_when_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    progress, text = Progress(num_images_total=10), ""

    with LogShow(poll_seconds=0.005).progress(progress):
        progress.shard_is_retried("OSError: the store is away")
        while "trouble" not in text:
            time.sleep(0.005)
            text += capsys.readouterr().err

    assert text.partition(" ")[2] == "trouble: OSError: the store is away\n"


def test_a_program_gets_json_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    progress, text = Progress(name="shapes", num_images_total=10), ""

    with JsonShow(seconds=0.005).progress(progress):
        while "progress" not in text:
            time.sleep(0.005)
            text += capsys.readouterr().out
        progress.actor_is_ready(progress.add_slot(), "cpu", "node")
        progress.images_are_written(progress.slots[0], 7, 0, 1_700_000_000_000_000)

    last = capsys.readouterr()
    facts = [json.loads(line) for line in (text + last.out).splitlines()]
    assert last.err == ""
    assert (facts[0]["job"], facts[0]["num_images"], facts[0]["eta_seconds"]) == ("shapes", 0, None)
    assert (facts[-1]["event"], facts[-1]["num_images"]) == ("progress", 7)
    actor = facts[-1]["actors"][0]
    assert (actor["slot"], actor["state"], actor["device"], actor["num_failures"]) == (1, "idle", "cpu", 0)


def test_a_job_that_fails_still_gets_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"the job failed"), LogShow().progress(Progress(num_images_total=10)):
        raise RuntimeError("the job failed")

    assert "0/10 images" in capsys.readouterr().err


def test_a_terminal_gets_a_live_view_and_the_totals_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich treat the output as a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    progress = Progress(num_images_total=10)

    text = ""
    with showing("job", "/out") as show, show.progress(progress):
        while "0/10 images" not in text:
            time.sleep(0.005)
            text += capsys.readouterr().err
        progress.num_images = 7

    text += capsys.readouterr().err
    assert "0/10 images" in text
    assert text.endswith("7/10 images · – images/s · 0 rejected\n")


@pytest.mark.parametrize("width", [0, 1, 7, 40])
def test_the_live_view_is_drawn_on_a_terminal_of_any_size(progress: Progress, width: int) -> None:
    assert all(len(line) <= max(width, 1) for line in drawn(progress, width, height=0))


def test_a_display_that_fails_is_a_note_and_the_job_continues(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Progress):
        @property
        def seconds(self) -> float:
            raise ArithmeticError("no clock")

    with LogShow(poll_seconds=0.01).progress(Failing()):
        time.sleep(0.2)
    assert capsys.readouterr().err == "note: the progress is no longer shown: no clock\n"
