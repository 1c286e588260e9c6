"""`python -m tests.chaos --rounds N --seed S`: kill parts of a cluster at random while a job runs, and count images."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import conftest
from tests.chaos.faults import FAULTS
from tests.chaos.machines import running_machines
from tests.chaos.rounds import Outcome, run_round
from tests.support.servers.chosen import chosen_server
from tests.support.servers.s3 import S3Server

NUM_FAULTS = 12
COLUMNS = ("round", "layout", *FAULTS, "runs", "images", "lost", "doubled", "different", "seconds")


def main() -> int:
    """1 if an image was lost, doubled or has other bytes than in a run without faults, or an output was not whole."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="jobs to render; default 5")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults; default 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat one")
    parser.add_argument("--faults", type=int, default=NUM_FAULTS, help=f"faults per round; default {NUM_FAULTS}")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, _store(Path(name)) as store:
        print(f"store: {store.name}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        with running_machines(Path(name), store) as machines:
            for number in range(arguments.first, arguments.first + arguments.rounds):
                folder = Path(name) / str(number)
                outcome = run_round(machines, folder, seed=arguments.seed, number=number, num_faults=arguments.faults)
                outcomes.append(outcome)
                print(_line(outcome, str(number), outcome.layout), flush=True)
                print(*outcome.errors, sep="\n", end="\n" * bool(outcome.errors), file=sys.stderr, flush=True)
    print(_line(_sum(outcomes), "all", ""))
    return 0 if all(outcome.is_whole for outcome in outcomes) else 1


@contextmanager
def _store(folder: Path) -> Iterator[S3Server]:
    """A running store (Ceph if it is installed, otherwise moto), with its keys in the environment."""
    kind = chosen_server()
    with conftest.aws_settings():
        store = kind(folder / "s3", bucket="chaos", key=conftest.ACCESS_KEY, secret=conftest.SECRET_KEY)
        try:
            store.start()
            yield store
        finally:
            store.stop()


def _line(outcome: Outcome, *names: str) -> str:
    faults = [outcome.faults[kind] for kind in FAULTS]
    counts = (outcome.num_runs, outcome.num_images, outcome.num_lost, outcome.num_doubled, outcome.num_different)
    return f"| {' | '.join(map(str, (*names, *faults, *counts, round(outcome.seconds))))} |"


def _sum(outcomes: list[Outcome]) -> Outcome:
    total = Outcome(number=0, layout="", faults=sum((outcome.faults for outcome in outcomes), Counter()))
    for name in ("num_runs", "num_images", "num_lost", "num_doubled", "num_different", "seconds"):
        setattr(total, name, sum(getattr(outcome, name) for outcome in outcomes))
    return total


if __name__ == "__main__":
    sys.exit(main())
