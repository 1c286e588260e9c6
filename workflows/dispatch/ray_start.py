"""Start Ray on this machine or join one that runs, and say why if that fails."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import signal
import socket
import sys
from typing import Any

import ray
from ray._private import ray_constants, services, worker

from actors.errors import InputError, JobFailure, one_line, reason_line
from janus_batch import own_packages_first

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60  # of a head node whose machine is busy
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings
# Of the 107 (macOS: 103) bytes of a socket's path. Ray adds /session_<date>_<process>/sockets/plasma_store.
MAX_TEMPORARY_BYTES = 43 if sys.platform == "linux" else 39
# Errors of a Ray that cannot start here, however often it is tried. Everything else may be a part of Ray that was not
# ready in time: Ray has no class of its own for that.
LASTING_ERRORS = (OSError, ValueError, TypeError, ImportError)
BRIEF_OS_ERRORS = (ConnectionError, TimeoutError)
MISMATCH = "Version mismatch: "
TOKEN_VARIABLES = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
# By default Ray starts a worker for every core at once. Those of a run start when its actors and tasks need them.
SYSTEM_CONFIG = {"prestart_worker_first_driver": False}


class ClusterError(InputError):
    """The job asks for a Ray cluster that cannot be joined, or for GPUs that this machine does not have."""


class RayNotStartedError(JobFailure):
    """Ray did not start on this machine: too little memory, a full disk, or a machine that is too busy."""


def start_ray() -> None:
    """Start Ray on this machine. A start that was too slow is tried once more: Ray's files are in memory by then.

    Raises ClusterError for a temporary folder that Ray cannot use, and RayNotStartedError.
    """
    _listen_on_this_machine_only()
    _check_temporary_folder()
    _need_no_home_folder()
    for is_last in (False, True):
        try:
            return _init("local", include_dashboard=False, _system_config=SYSTEM_CONFIG)
        except Exception as error:  # Ray raises no class of its own here
            ray.shutdown()
            if is_last or not _may_pass(error):
                raise RayNotStartedError(
                    f"Ray did not start on this machine: {reason_line(error)}; {_remedy(error)}"
                ) from error


def join_ray(address: str) -> None:
    """Join the cluster at `address`, which is the option --address or the variable RAY_ADDRESS. Raises ClusterError.

    Checks first that a server of Ray's kind listens there: Ray would wait for minutes.
    """
    try:
        if "://" in address:
            raise ValueError("this is the URL of a server in front of a cluster")
        # Ray has the address of `auto` from a file, which outlives a cluster that was killed, and takes another address
        # of this machine for localhost. It would try without end to reach one where nothing listens.
        _check_speaks_grpc(services.canonicalize_bootstrap_address(address) or "")
        _init(address)
    except Exception as error:
        name = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "--address"
        if str(error).startswith(MISMATCH):
            raise ClusterError(
                f"{name}: the cluster at {address} has another version of Ray or Python than this machine "
                f"({one_line(' '.join(str(error).removeprefix(MISMATCH).split()))}); install the versions of the "
                "cluster here, or use `janus-batch submit --address URL`, which runs the job with them"
            ) from error
        raise ClusterError(
            f"{name}: no Ray cluster can be joined at {address} ({reason_line(error)}); allowed are auto and the "
            "HOST:PORT of a head node, used from a machine of the cluster. From elsewhere use `janus-batch submit "
            "--address URL`"
        ) from error


def leave_ray() -> None:
    """Disconnect this process, which is about to end, from Ray, and keep its handler of SIGTERM, which Ray removes.

    Ray's own hook at exit, which comes next, would do the same and then end the processes that it started, which takes
    a second. A SIGTERM in that second would kill this process.
    """
    handler = signal.getsignal(signal.SIGTERM)
    driver: Any = worker.global_worker  # its type does not declare core_worker
    if driver.connected:
        worker.disconnect(exiting_interpreter=True)
        driver.core_worker.shutdown_driver()
        del driver.core_worker
        signal.signal(signal.SIGTERM, handler)


def _check_speaks_grpc(address: str) -> None:
    """Raise OSError or ValueError unless a server at HOST:PORT answers as those of Ray's head node do."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("this is not HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(HTTP2_GREETING)
        answer = connection.recv(9)  # the head of a frame, the fourth byte of which is 4 for settings
    if answer[3:4] != b"\4":
        dashboard = "; the dashboard's port, 8265, is another one than that of the head node, 6379"
        raise ValueError(f"the server there is not Ray's{dashboard if answer.startswith(b'HTTP') else ''}")


def _may_pass(error: Exception) -> bool:
    """Whether a second start may succeed."""
    return isinstance(error, BRIEF_OS_ERRORS) or not isinstance(error, LASTING_ERRORS)


def _remedy(error: Exception) -> str:
    """What the user can do."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "another program uses a port that Ray needs; end it, or join a Ray that runs with --address auto"
    if isinstance(error, OSError) and not isinstance(error, BRIEF_OS_ERRORS):
        return "set RAY_TMPDIR to a short path on a disk with room"
    logs = os.path.join(_temporary_folder(), "session_latest", "logs")
    return f"the machine may be busy or short of memory; run the same command again when it is less busy (logs: {logs})"


def _temporary_folder() -> str:
    """Where Ray keeps its sockets and logs. On macOS it ignores TMPDIR, which is set there and too long."""
    folder = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return os.path.join(os.environ.get("RAY_TMPDIR") or folder or "/tmp", "ray")


def _check_temporary_folder() -> None:
    """Raise ClusterError for a folder in which Ray's sockets cannot have names: the system limits their length."""
    folder = _temporary_folder()
    if len(os.fsencode(folder)) <= MAX_TEMPORARY_BYTES and folder.isascii():
        return
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    raise ClusterError(
        f"{name}: Ray keeps its sockets in {one_line(folder)}, whose path must be ASCII and have at most "
        f"{MAX_TEMPORARY_BYTES} bytes, it has {len(os.fsencode(folder))}; set RAY_TMPDIR=/tmp"
    )


def _listen_on_this_machine_only() -> None:
    """Keep every listener of a Ray that this process starts on 127.0.0.1.

    Ray's switch for it is named after the systems where it is the default. Ray reads the environment variable when it
    is imported, before the address is known, so its constant is set, too.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False


def _need_no_home_folder() -> None:
    """Give Ray a token where it cannot write one into the home folder, as it does unless a variable says otherwise."""
    folder = os.path.expanduser("~/.ray")
    try:
        if TOKEN_VARIABLES.isdisjoint(os.environ) and not os.access(folder, os.W_OK):
            os.mkdir(folder)
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(address: str, **options: Any) -> None:
    """Call ray.init() so that workers import this program's packages even if the user has files of the same names."""
    own_packages = {"worker_process_setup_hook": own_packages_first()}
    ray.init(address, runtime_env=own_packages, logging_level=logging.ERROR, log_to_driver=False, **options)
