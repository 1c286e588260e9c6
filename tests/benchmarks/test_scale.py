"""The simulated cluster renders every shard, and a shard sends few requests to S3."""

from __future__ import annotations

import pytest

from benchmarks import scale


def test_simulated_actors_render_every_shard_and_are_rarely_idle() -> None:
    assert scale.simulate("20 1000")["idle"] < 0.2


def test_packed_shards_need_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "benchmark")
    requests = scale.s3_requests("webdataset")
    assert requests["PutObject"] == 2 * (scale.NUM_S3_IMAGES // scale.SHARD_ROWS)
    assert sum(requests.values()) / scale.NUM_S3_IMAGES < 0.05
