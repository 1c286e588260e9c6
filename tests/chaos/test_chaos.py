"""The short form of `python -m tests.chaos`: one job and a few faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.acts import draw_acts
from tests.chaos.play import play
from tests.chaos.scene import scene
from tests.support.servers.s3 import S3Server

SEED, NUMBER, NUM_ACTS = 7, 0, 5


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_image_is_there_once_with_the_same_bytes_despite_faults(tmp_path: Path, s3_server: S3Server) -> None:
    with scene(tmp_path, s3_server) as here:
        outcome = play(here, tmp_path / "round", seed=SEED, number=NUMBER, num_acts=NUM_ACTS)

    assert outcome.is_whole, outcome
    assert outcome.faults.total() > 0


def test_a_round_is_drawn_from_its_seed_and_number() -> None:
    assert draw_acts(1, 2, 9, keeps_objects=True) == draw_acts(1, 2, 9, keeps_objects=True)
    assert draw_acts(1, 2, 9, keeps_objects=True) != draw_acts(1, 3, 9, keeps_objects=True)
    assert "store" not in {act.kind for act in draw_acts(1, 2, 500, keeps_objects=False)}
