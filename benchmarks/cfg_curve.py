"""Measures the effect of the guidance weight: adherence, diversity and color on held-out prompts, over several weights.

    python -m benchmarks.cfg_curve janus-shapes janusflow-shapes --plot docs/images/cfg-curve.png

Each model renders one sweep as an ordinary job (`janus-batch render`), and the judge of `examples/shapes` decides which
images are right. `--wrong-pad` also renders the first model with a tokenizer that gives the pad's name to another
token, a fault that `janus-batch doctor` detects.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from PIL import Image

from actors.prompt.tokenizer import PAD
from examples.shapes.judge import faults
from examples.shapes.schedule import CHECKPOINTS
from examples.shapes.world import Scene, describe, held_out_pairs, held_out_singles
from jobs.job_file.read import check_fields
from jobs.render import render

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
SEED_OF_SCENES = 11  # other held-out scenes than the training scripts report on


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A model at one weight: shares of right images, and means over its images."""

    model: str
    cfg_weight: float
    single: float
    pair: float
    diversity: float  # root mean square difference of two images of a prompt, 0 to 1
    saturation: float
    contrast: float
    clipped: float
    num_images: int


def main() -> None:
    arguments = _parse()
    scenes = held_out_scenes(arguments.prompts)
    with tempfile.TemporaryDirectory() as folder:
        models = {name: name for name in arguments.models}
        if arguments.wrong_pad:
            broken = break_pad(CHECKPOINTS / arguments.models[0], Path(folder) / "wrong-pad")
            models[f"{arguments.models[0]}, wrong pad"] = str(broken)
        points = [
            point
            for label, checkpoint in models.items()
            for point in _measure(label, checkpoint, scenes, arguments, Path(folder))
        ]
    _print_table(points, arguments)
    if arguments.plot:
        _plot(points, arguments.plot)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="bundled checkpoints")
    parser.add_argument(
        "--prompts", type=int, default=50, help="prompts with one shape, and as many with two (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=4, help="images per prompt and weight (default: %(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--wrong-pad", action="store_true", help="also render the first model with a wrong pad token")
    parser.add_argument("--plot", type=Path, help="write the curves to this image file (needs matplotlib)")
    return parser.parse_args()


def held_out_scenes(num: int) -> dict[str, Scene]:
    """`num` scenes with one shape and `num` with two, by prompt id."""
    scenes = {f"single-{i:03d}": s for i, s in enumerate(held_out_singles(SEED_OF_SCENES, num))}
    return scenes | {f"pair-{i:03d}": s for i, s in enumerate(held_out_pairs(SEED_OF_SCENES, num))}


def _measure(
    label: str, checkpoint: str, scenes: dict[str, Scene], arguments: argparse.Namespace, folder: Path
) -> list[Point]:
    """Render the sweep and judge its images."""
    output = folder / f"renders-{label.replace(' ', '-').replace(',', '')}"
    rows, pixels = render_scenes({"checkpoint": checkpoint}, scenes, arguments.weights, arguments.images, output)
    return [point_of(label, weight, rows, pixels, scenes) for weight in arguments.weights]


def render_scenes(
    model: dict[str, Any],
    scenes: dict[str, Scene],
    weights: Sequence[float],
    num_images: int,
    output: Path,
    judge: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The manifest rows and the images of a job with `num_images` per scene and weight, and maybe a judge."""
    prompts = output.with_name("prompts.parquet")
    pq.write_table(pa.table({"id": list(scenes), "prompt": [describe(scene) for scene in scenes.values()]}), prompts)
    spec = {
        "prompts": str(prompts),
        "output": str(output),
        "model": {**model, "allow_faults": True},
        "sampling": {"cfg_weight": list(weights), "images_per_prompt": num_images},
        "images": {"layout": "parquet"},
        "judge": judge,
    }
    render(check_fields(spec), address=None)
    return pyarrow.dataset.dataset(output / "manifest").to_table().to_pylist(), _read_images(output)


def _read_images(output: Path) -> dict[str, np.ndarray]:
    table = pyarrow.dataset.dataset(output / "images").to_table(columns=["image_id", "image"])
    return {
        row["image_id"]: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        for row in table.to_pylist()
    }


def point_of(
    label: str, weight: float, rows: Sequence[dict[str, Any]], pixels: dict[str, np.ndarray], scenes: dict[str, Scene]
) -> Point:
    """The judged images of one weight."""
    rows = [row for row in rows if row["cfg_weight"] == weight]
    right: dict[str, list[bool]] = defaultdict(list)
    images: dict[str, list[np.ndarray]] = defaultdict(list)
    for row in rows:
        image = pixels[row["image_id"]]
        right[row["prompt_id"].split("-")[0]].append(not faults(image, scenes[row["prompt_id"]]))
        images[row["prompt_id"]].append(image / 255)
    distances = [
        np.sqrt(np.mean((one - other) ** 2))
        for same_prompt in images.values()
        for one, other in itertools.combinations(same_prompt, 2)
    ]
    return Point(
        model=label,
        cfg_weight=weight,
        single=float(np.mean(right["single"])),
        pair=float(np.mean(right["pair"])),
        diversity=float(np.mean(distances)),
        saturation=float(np.mean([row["mean_saturation"] for row in rows])),
        contrast=float(np.mean([row["contrast"] for row in rows])),
        clipped=float(np.mean([row["clipped_fraction"] for row in rows])),
        num_images=len(rows),
    )


def break_pad(folder: Path, broken: Path) -> Path:
    """A copy of a checkpoint whose tokenizer.json swaps the pad with another token."""
    shutil.copytree(folder, broken)
    path = broken / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    added = [token["content"] for token in json.loads(text)["added_tokens"]]
    other = next(name for name in added if name == "<image_placeholder>")
    # swapped everywhere in the file, so that the tokenizer still loads
    path.write_text(text.replace(PAD, "\0").replace(other, PAD).replace("\0", other), encoding="utf-8")
    return broken


def _print_table(points: Sequence[Point], arguments: argparse.Namespace) -> None:
    import torch

    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32 on CPU")
    print(f"{arguments.prompts} held-out prompts of each kind, {arguments.images} images of each at each weight\n")
    print("| model | cfg_weight | one shape right | two shapes right | diversity | saturation | contrast | clipped |")
    print("|---|---|---|---|---|---|---|---|")
    for p in points:
        print(
            f"| {p.model} | {p.cfg_weight:g} | {p.single:.1%} | {p.pair:.1%} | {p.diversity:.3f} | {p.saturation:.3f} "
            f"| {p.contrast:.3f} | {p.clipped:.3f} |"
        )


def _plot(points: Sequence[Point], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    for model in dict.fromkeys(point.model for point in points):
        mine = [point for point in points if point.model == model]
        weights = [point.cfg_weight for point in mine]
        line = axes[0].plot(weights, [100 * point.single for point in mine], marker="o", label=f"{model}: one shape")
        color = line[0].get_color()
        axes[0].plot(
            weights, [100 * p.pair for p in mine], marker="s", ls="--", color=color, label=f"{model}: two shapes"
        )
        axes[1].plot(weights, [point.diversity for point in mine], marker="o", color=color, label=model)
        axes[2].plot(weights, [point.contrast for point in mine], marker="o", color=color, label=f"{model}: contrast")
        axes[2].plot(
            weights, [p.saturation for p in mine], marker="s", ls="--", color=color, label=f"{model}: saturation"
        )
    for axis, title in zip(
        axes, ("right images, %", "difference between seeds", "contrast and saturation"), strict=True
    ):
        axis.set(title=title, xlabel="cfg_weight")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
