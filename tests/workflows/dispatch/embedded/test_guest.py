"""Rendering in another program's process: its Ray stays, and what the render starts or sets goes."""

from __future__ import annotations

import os
import signal

import pytest

from workflows.dispatch.embedded.guest import guest_cluster
from workflows.dispatch.ray_start import ClusterError


def test_a_ray_of_the_program_is_used_and_left_running(ray_cluster: None) -> None:
    import ray

    with guest_cluster() as cluster:
        assert cluster.is_started

    assert ray.is_initialized()
    with pytest.raises(ClusterError, match=r"Ray is initialized in this process already, got 10\.0\.0\.1:6379; leave"):
        guest_cluster("10.0.0.1:6379").__enter__()


def test_settings_and_handlers_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_IGNORE_UNHANDLED_ERRORS", raising=False)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)

    with guest_cluster():
        os.environ.update(RAY_TMPDIR="/other", RAY_IGNORE_UNHANDLED_ERRORS="1")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == (before, handler)
