"""The short form of `python -m tests.chaos`: one job and a few faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import draw_faults
from tests.chaos.machines import running_machines
from tests.chaos.rounds import run_round
from tests.support.servers.s3 import S3Server

SEED, NUMBER, NUM_FAULTS = 7, 0, 5


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_image_is_there_once_with_the_same_bytes_despite_faults(tmp_path: Path, s3_server: S3Server) -> None:
    with running_machines(tmp_path, s3_server) as machines:
        outcome = run_round(machines, tmp_path / "round", seed=SEED, number=NUMBER, num_faults=NUM_FAULTS)

    assert outcome.is_whole, outcome
    assert outcome.faults.total() > 0


def test_a_round_is_drawn_from_its_seed_and_number() -> None:
    assert draw_faults(1, 2, 9, keeps_objects=True) == draw_faults(1, 2, 9, keeps_objects=True)
    assert draw_faults(1, 2, 9, keeps_objects=True) != draw_faults(1, 3, 9, keeps_objects=True)
    assert "store" not in {fault.kind for fault in draw_faults(1, 2, 500, keeps_objects=False)}
