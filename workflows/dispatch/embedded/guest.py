"""Renders inside the process of another program, and leaves that process as it was."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants
from ray.util.client import ray as ray_client

from workflows.dispatch.cluster import Cluster
from workflows.dispatch.ray_start import ClusterError, leave_ray

_ONE_AT_A_TIME = threading.Lock()  # a render that ends its Ray would end the Ray of another thread's render


@contextmanager
def guest_cluster(address: str | None = None) -> Iterator[Cluster]:
    """The cluster to render on. A Ray that the program has initialized is used and left running; one that the block
    starts or joins is left at its end. Signal handlers and Ray's settings are restored. Threads take turns.

    Raises ClusterError for an address next to a Ray that is initialized, and for Ray Client.
    """
    with _ONE_AT_A_TIME, _restoring_sigterm(), _restoring_settings():
        is_initialized = _check_ray(address)
        try:
            yield Cluster(address)
        finally:
            if not is_initialized:
                ray.shutdown()
                atexit.unregister(leave_ray)


def _check_ray(address: str | None) -> bool:
    """Whether the program has initialized Ray. Raises ClusterError."""
    is_initialized = bool(ray.is_initialized())
    if ray_client.is_connected():
        raise ClusterError(
            "Ray Client (ray://) is not supported: it runs no driver in this process; connect with the HOST:PORT of a "
            "head node from a machine of the cluster, or use `janus-batch submit --address URL`"
        )
    if is_initialized and address:
        raise ClusterError(f"address: Ray is initialized in this process already, got {address}; leave address out")
    return is_initialized


@contextmanager
def _restoring_sigterm() -> Iterator[None]:
    """Ray and the cluster handle SIGTERM in their own way. Only the main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _restoring_settings() -> Iterator[None]:
    """The environment variables and the constant of Ray that starting a Ray here sets."""
    variables, is_enabled = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            if name.startswith("RAY_"):
                del os.environ[name]
        os.environ.update({name: value for name, value in variables.items() if name.startswith("RAY_")})
        ray_constants.ENABLE_RAY_CLUSTER = is_enabled
