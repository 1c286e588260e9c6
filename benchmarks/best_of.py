"""Measures whether a model that looks at its own images chooses better ones: adherence against the number of candidates
and against cost.

    python -m benchmarks.best_of CHECKPOINT --plot best-of.png

CHECKPOINT is a model of the world of shapes with a vision tower, such as janus-shapes. Each model renders several
images of each held-out prompt and scores all of them. The pixel rules of `examples/shapes` decide which images are
right; the model does not see them. Best of n is the image with the highest score among n. For a smaller n, the images
of a prompt are divided into groups of n, and the shares are means over the groups.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.engines import open_engine_and_looker
from benchmarks.cfg_curve import held_out_scenes, render_scenes
from examples.shapes.judge import faults
from examples.shapes.world import Scene
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from workflows.cost.measure import measure
from workflows.output.remaining import find_job_prompts, plan_job

WEIGHTS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds to render one candidate, and to look at it."""

    render_seconds: float
    look_seconds: float
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Best of `n` at one weight: shares of right images by the kind of prompt.

    `any_right`: the share of groups with a right image, which no choice can exceed. `seconds`: the cost of one image.
    """

    model: str
    cfg_weight: float
    n: int
    single: float
    pair: float
    any_right: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The images of one prompt: whether each is right, and its score; both [num_images]."""

    kind: str
    is_right: np.ndarray
    scores: np.ndarray


def main() -> None:
    arguments = _parse()
    scenes, points = held_out_scenes(arguments.prompts), list[Point]()
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            for weight in arguments.weights:
                output = Path(folder) / f"{Path(model).name}-{weight:g}"
                judge = {"checkpoint": arguments.judge}
                rows, pixels = render_scenes({"checkpoint": model}, scenes, [weight], arguments.images, output, judge)
                judged = judge_rows(rows, pixels, scenes)
                cost = measure_cost(output.with_name("prompts.parquet"), model, weight, judge)
                points += points_of(model, weight, judged, cost)
                print(f"{model} at {weight:g}: {separation(judged)}", flush=True)
    _print_table(points, arguments, cost.device)
    if arguments.plot:
        _plot(points, arguments.plot)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="checkpoints of the world of shapes that can look at images")
    parser.add_argument("--judge", help="another checkpoint that looks (default: each model judges itself)")
    parser.add_argument(
        "--prompts", type=int, default=50, help="prompts with one shape, and as many with two (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=8, help="images per prompt and weight; the largest n (default: %(default)s)"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--plot", type=Path, help="write the curves to this image file (needs matplotlib)")
    return parser.parse_args()


def judge_rows(rows: Sequence[dict[str, Any]], pixels: dict[str, np.ndarray], scenes: dict[str, Scene]) -> list[Judged]:
    """The images of each prompt in the order of their indices, with the verdict of the pixel rules on each."""
    of_prompt: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["prompt_id"], row["image_index"])):
        of_prompt[row["prompt_id"]].append(row)
    return [
        Judged(
            kind=prompt_id.split("-")[0],
            is_right=np.array([not faults(pixels[row["image_id"]], scenes[prompt_id]) for row in images]),
            scores=np.array([row["judge_score"] for row in images]),
        )
        for prompt_id, images in of_prompt.items()
    ]


def points_of(model: str, weight: float, judged: Sequence[Judged], cost: Cost) -> list[Point]:
    """Best of 1, 2, 4 and so on, up to all images of a prompt. Best of 1 needs no look."""
    most = min(len(prompt.scores) for prompt in judged)
    points = []
    for n in (2**power for power in range(most.bit_length())):
        chosen, any_right = defaultdict[str, list[bool]](list), list[bool]()
        for prompt in judged:
            for start in range(0, most - n + 1, n):
                is_right, scores = (values[start : start + n] for values in (prompt.is_right, prompt.scores))
                chosen[prompt.kind].append(bool(is_right[scores.argmax()]))  # the first of equal scores
                any_right.append(bool(is_right.any()))
        looks = cost.look_seconds if n > 1 else 0.0
        points.append(
            Point(
                model=model,
                cfg_weight=weight,
                n=n,
                single=float(np.mean(chosen["single"])),
                pair=float(np.mean(chosen["pair"])),
                any_right=float(np.mean(any_right)),
                seconds=n * (cost.render_seconds + looks),
            )
        )
    return points


def separation(judged: Sequence[Judged]) -> str:
    """How well the scores tell right from wrong: the share of pairs of one prompt's images that they order."""
    won = [
        (right > wrong) + 0.5 * (right == wrong)
        for prompt in judged
        for right in prompt.scores[prompt.is_right]
        for wrong in prompt.scores[~prompt.is_right]
    ]
    if not won:
        return "no prompt has right and wrong images"
    return f"the score orders {np.mean(won):.1%} of {len(won):,} pairs of a right and a wrong image of one prompt"


def measure_cost(prompts: Path, model: str, weight: float, judge: dict[str, Any]) -> Cost:
    """The speed of this machine in full batches, as `janus-batch plan --measure` finds it."""
    spec = check_fields(
        {
            "prompts": str(prompts),
            "output": str(prompts.with_name("measured")),
            "model": {"checkpoint": model, "allow_faults": True},
            "sampling": {"cfg_weight": weight},
            "judge": judge,
        }
    )
    job = resolve(spec, num_gpus=0)
    engine, looker = open_engine_and_looker(job.recipe, {}, allow_faults=True)
    found = measure(engine, looker, job, plan_job(job, find_job_prompts(job)))
    return Cost(render_seconds=1 / found.images_per_second, look_seconds=found.seconds_per_look, device=found.device)


def _print_table(points: Sequence[Point], arguments: argparse.Namespace, device: str) -> None:
    import torch

    print(f"\n{platform.machine()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(f"{arguments.prompts} held-out prompts of each kind, {arguments.images} images of each at each weight\n")
    print("| model | cfg_weight | best of | one shape right | two shapes right | a right one in n | ms per image |")
    print("|---|---|---|---|---|---|---|")
    for p in points:
        print(
            f"| {p.model} | {p.cfg_weight:g} | {p.n} | {p.single:.1%} | {p.pair:.1%} | {p.any_right:.1%} "
            f"| {1000 * p.seconds:.0f} |"
        )


def _plot(points: Sequence[Point], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for model, weight in dict.fromkeys((point.model, point.cfg_weight) for point in points):
        mine = [point for point in points if (point.model, point.cfg_weight) == (model, weight)]
        right = [50 * (point.single + point.pair) for point in mine]  # as many prompts of each kind
        for axis, x in zip(axes, ([p.n for p in mine], [1000 * p.seconds for p in mine]), strict=True):
            axis.plot(x, right, marker="o", label=f"{model}, weight {weight:g}")
    for axis, title in zip(axes, ("candidates per image", "cost of an image, ms"), strict=True):
        axis.set(xlabel=title, ylabel="right images, %")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
