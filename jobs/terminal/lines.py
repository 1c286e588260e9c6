"""The lines about a job: its plan before it starts, its progress while it runs, its result at the end."""

from __future__ import annotations

from actors.errors import one_line
from actors.recipe import Recipe
from jobs.job_file.resolve import remarks
from jobs.terminal.text import clock_text, counted, judge_line, throughput_text
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.acceptance import top_reasons
from workflows.plan import Plan
from workflows.run import Result
from workflows.storage.path import output_arguments

# The progress of a job before its first actor is ready: the state of the slot that is furthest.
BEFORE_RENDERING = {
    "loading": "loading the model",
    "starting": "starting",
    "waiting": "waiting for room on the cluster",
}


def plan_lines(job: RenderJob, plan: Plan, *, is_resumed: bool) -> list[str]:
    """The work ahead."""
    recipe = job.recipe
    lines = [
        f"{job.name}: {recipe.checkpoint} ({recipe.family}, {recipe.dtype}), {_settings_text(recipe)}",
        f"{_work_text(job, plan)} -> {job.output}",
        *([f"judge: {judge_line(recipe.judge)}"] if recipe.judge else []),
        *(f"note: {line}" for line in remarks(job)),
    ]
    if plan.shard_rows != job.shard_rows:
        lines.append(f"note: shard_rows stays {plan.shard_rows:,}, the value of the run that started this output")
    if is_resumed:
        done, left = counted(plan.num_rows_committed, "prompt"), counted(plan.num_shards_remaining, "shard")
        lines.append(f"resuming: {done} done, {left} left")
    return lines


def rows_in_files(job: RenderJob, plan: Plan) -> str:
    """Where the prompts come from."""
    skipped = sum(file.num_skipped for file in plan.files)
    place, num_rows = f"in {counted(len(plan.files), 'file')}", plan.num_rows_in_files
    if num_rows is None:
        place = f"from the beginning of {counted(len(plan.files), 'file')}"
    elif job.reading.selects_rows:
        place = f"selected from {counted(num_rows, 'row')} {place}"
    return place + (f" without {counted(skipped, 'empty line')}" if skipped else "")


def _settings_text(recipe: Recipe) -> str:
    if recipe.look is not None:
        return f"question: {one_line(recipe.look.question)}"
    weights = ", ".join(f"{weight:g}" for weight in recipe.cfg_weights)
    return f"cfg_weight {weights}, seed {recipe.seed}"


def _work_text(job: RenderJob, plan: Plan) -> str:
    rows, per_row = rows_in_files(job, plan), job.recipe.images_per_row
    if job.recipe.look is not None:
        return f"{counted(plan.num_rows, 'image')} {rows} to look at"
    images = counted(plan.num_images(per_row), "image")
    return f"{counted(plan.num_rows, 'prompt')} {rows} x {per_row} = {images}"


def progress_line(progress: Progress, *, is_over: bool = False) -> str:
    """`1,204/6,528 images · 3.10 images/s · ETA 28:40 · 2 actors · 3 rejected`; the totals when the job is over."""
    parts = [f"{progress.num_done:,}/{counted(progress.num_images_total, 'image')}"]
    if is_over:
        parts.append(f"{throughput_text(progress.images_per_second)} images/s")
    elif progress.rendering_since is None:
        states = {slot.state for slot in progress.slots}
        parts.append(next((words for state, words in BEFORE_RENDERING.items() if state in states), "starting"))
    else:
        parts.append(f"{progress.images_per_second_now:.2f} images/s")
        parts.append(f"ETA {clock_text(progress.eta_seconds)}")
    if not is_over:
        parts.append(counted(progress.num_actors, "actor"))
    parts.append(f"{progress.num_rejected:,} rejected")
    parts += look_parts(progress)
    if progress.num_retries:
        parts.append(counted(progress.num_retries, "retry", "retries"))
    if progress.num_actors_lost:
        parts.append(counted(progress.num_actors_lost, "actor lost", "actors lost"))
    return " · ".join(parts)


def look_parts(progress: Progress) -> list[str]:
    """`4.3 candidates per image` and `12 re-rolls`, if the job looks at its images."""
    if not progress.num_candidates:
        return []
    parts = [f"{progress.candidates_per_image:.3g} candidates per image"]
    return parts + ([counted(progress.num_rerolls, "re-roll")] if progress.num_rerolls else [])


def result_lines(result: Result) -> list[str]:
    """The totals of the run, and where its files are."""
    tally, progress, output = result.tally, result.progress, result.job.output
    lines = [
        f"done: {counted(tally.num_images, 'image')}, {tally.num_rejected:,} rejected, in {result.seconds:.0f} s",
    ]
    if progress.num_images:
        throughput = progress.images_per_second  # None for a run that is shorter than two batches
        speed = "" if throughput is None else f", {throughput_text(throughput)} images/s"
        lines.append(f"      {progress.num_images:,} of them in this run{speed}")
    if progress.num_candidates:
        looks = ", ".join(look_parts(progress))
        lines.append(f"      {looks}, {progress.looking_seconds:.1f} s spent looking at them")
    if result.phases:
        lines.append(f"time      {', '.join(f'{phase} {seconds:.1f} s' for phase, seconds in result.phases.items())}")
    if result.job.recipe.look is None:
        lines.append(f"images    {output}/images")
        lines.append(f"manifest  {output}/manifest   (one row per image: prompt, seed, weight, model, hash)")
    else:
        lines.append(f"answers   {output}/manifest   (one row per image: question, answer, score, model, hash)")
    if tally.num_rejected:
        lines.append(f"rejected  {output}/rejected   (one row per rejection, with its reason)")
        lines += [f"          {line}" for line in top_reasons(tally)]
    if result.report:
        lines.append(f"report    {result.report}")
    return lines + _next_lines(result.job, has_rejected=bool(tally.num_rejected))


def _next_lines(job: RenderJob, *, has_rejected: bool) -> list[str]:
    """The commands for a finished output."""
    folder = output_arguments(job.output, job.storage)
    commands = [
        f"janus-batch status {folder}",
        f"janus-batch verify {folder}",
        *([f"janus-batch retry-rejected {folder}"] if has_rejected else []),
        *([f"janus-batch export {folder} DEST --layout imagefolder"] if job.recipe.look is None else []),
    ]
    return [f"{'next' if number == 0 else '':<8}  {command}" for number, command in enumerate(commands)]
