"""Everything about one GPU in one command of at most six minutes: same bytes, speed, and the share of the limit.

    python -m benchmarks.gpu [--save [FOLDER]] [--only NAME ...] [--minutes N]
    python -m benchmarks.gpu --rehearse            # on a CPU, tiny models, kernels in Triton's interpreter

Each contestant runs in a process of its own with a time limit, so that one that fails costs the others nothing. Rows
are printed, and with `--save` written, as they come. The exit code is 1 if a contestant failed or bytes differed; one
that is skipped for lack of time has not failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.gpu.contestants import CONTESTANTS
from benchmarks.gpu.contestants import serve as serve_contestant
from benchmarks.gpu.referee import Table, run

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    arguments = _parse()
    if arguments.contestant:
        serve_contestant(arguments.contestant, is_rehearsal=arguments.rehearse)
        return 0
    if arguments.rehearse:  # inherited by the contestants
        os.environ.update({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # so that the contestants end too
    table = Table(folder=arguments.save, command=" ".join(["python -m benchmarks.gpu", *sys.argv[1:]]))
    run(arguments.only or list(CONTESTANTS), table, seconds=60 * arguments.minutes, is_rehearsal=arguments.rehearse)
    return 1 if table.has_failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of them (default: %(default)g)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny models")
    parser.add_argument(
        "--save", nargs="?", type=Path, const=RESULTS, metavar="FOLDER", help=f"write the table (to {RESULTS.name}/)"
    )
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
