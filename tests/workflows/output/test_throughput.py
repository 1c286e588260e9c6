"""The throughput of a job, from image times with a known throughput."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.output.throughput import MAX_BARS, Throughput

START = 1_700_000_000  # a multiple of ten seconds


def throughput_of(*seconds: np.ndarray) -> Throughput:
    throughput = Throughput()
    for part in seconds:
        throughput.add((np.asarray(part) * 1e6).astype(np.int64))
    return throughput


def test_throughput_is_images_over_time() -> None:
    throughput = throughput_of(START + np.arange(101) * 0.5)  # 101 images, half a second between two
    assert throughput.images_per_second == pytest.approx(2.0)
    assert throughput.seconds == pytest.approx(50.0)


def test_a_pause_does_not_lower_the_throughput() -> None:
    throughput = throughput_of(START + np.arange(101) * 0.5, START + 10_000 + np.arange(101) * 0.5)
    assert throughput.images_per_second == pytest.approx(2.0)
    assert [(run.num_images, run.seconds) for run in throughput.runs()] == [(101, 50.0), (101, 50.0)]
    assert [bar.after_pause for bar in throughput.bars() if bar.after_pause] == [9950.0]


def test_a_gap_of_less_than_ten_minutes_is_not_a_pause() -> None:
    throughput = throughput_of(START + np.array([0.0, 590.0, 1180.0]))
    assert [run.seconds for run in throughput.runs()] == [1180.0]


def test_the_order_of_the_images_does_not_matter() -> None:
    moments = START + np.random.default_rng(0).uniform(0, 5000, 1000)
    assert throughput_of(*np.array_split(moments, 7)) == throughput_of(np.sort(moments))


def test_the_images_of_the_first_batch_do_not_count() -> None:
    batches = np.repeat(START + np.arange(5) * 8.0, 16)  # five batches of 16 images, eight seconds each
    assert throughput_of(*np.array_split(batches, 3)).images_per_second == pytest.approx(2.0)


def test_images_that_are_taken_back_do_not_count() -> None:
    throughput = throughput_of(np.repeat(START + np.arange(5) * 8.0, 16))
    throughput.take_back(32)
    assert (throughput.num_images, throughput.images_per_second) == (48, 1.0)


@pytest.mark.parametrize("seconds", [[], [START], [START] * 16], ids=["none", "one image", "one batch"])
def test_throughput_needs_two_batches(seconds: np.ndarray) -> None:
    assert throughput_of(seconds).images_per_second is None


@pytest.mark.parametrize("hours", [0.1, 3, 24, 24 * 14])
def test_bars_are_few_count_every_image_and_show_a_steady_throughput(hours: float) -> None:
    moments = START + np.arange(0, hours * 3600, 2.0)
    bars = throughput_of(moments).bars()
    assert len(bars) <= MAX_BARS + 1
    assert sum(bar.num_images for bar in bars) == len(moments)
    assert [bar.images_per_second for bar in bars[1:-1]] == pytest.approx([0.5] * (len(bars) - 2))


def test_a_stretch_without_images_is_an_empty_bar() -> None:
    bars = throughput_of(START + np.array([0.0, 35.0])).bars()
    assert [bar.num_images for bar in bars] == [1, 0, 0, 1]
