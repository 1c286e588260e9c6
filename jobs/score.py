"""`janus-batch score`: score the images of an output, as data that `export` and the report can use."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from actors.errors import shown
from actors.recipe import CAPTION_TOKENS
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import workers_of
from jobs.job_file.sections.looking import DEFAULT_QUESTION
from jobs.terminal.show import showing
from jobs.terminal.text import counted, print_json, say
from workflows.dispatch.cluster import Cluster
from workflows.job import RenderJob
from workflows.output.claim import Claim, claimed_job, open_output
from workflows.scores.duplicates import Likeness, score_duplicates
from workflows.scores.parts import ScoresError, check_scorer_name
from workflows.scores.run import score_output
from workflows.scores.scorers import Found, aesthetic_scorer, clip_scorer, function_scorer, judge_scorer
from workflows.storage.store import Storage

KINDS = ("judge", "clip", "aesthetic", "duplicates")
# The options that each kind of scorer takes, next to --name.
TAKES = {
    "judge": {"checkpoint", "revision", "question", "with_caption"},
    "clip": {"checkpoint", "revision", "with_embeddings"},
    "aesthetic": {"checkpoint", "revision", "head"},
    "duplicates": {"max_distance", "embeddings_from", "min_similarity"},
    "function": set[str](),
}
NEEDS = {"clip": ("checkpoint",), "aesthetic": ("checkpoint", "head")}
NEEDS_NEXT_TO = {"revision": "checkpoint", "min_similarity": "embeddings_from"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerOptions:
    """What the command line says about a scorer; None or False for an option that is not given."""

    checkpoint: str | None = None
    revision: str | None = None
    question: str | None = None
    with_caption: bool = False
    with_embeddings: bool = False
    head: str | None = None
    max_distance: int | None = None
    embeddings_from: str | None = None
    min_similarity: float | None = None


def score(
    output: str,
    endpoint_url: str | None,
    settings: tuple[str, ...],
    *,
    scorer: str,
    name: str | None,
    address: str | None,
    as_json: bool = False,
    is_quiet: bool = False,
    **given: Any,
) -> int:
    """Score the images of an output and say what was done. Always 0: what cannot be done raises."""
    kind, options = scorer if scorer in KINDS else "function", ScorerOptions(**given)
    _check_options(kind, options)
    name = name or (scorer.rpartition(":")[2] if kind == "function" else kind)
    check_scorer_name(name)
    storage, claim = open_output(output, endpoint_url)
    if kind == "duplicates":
        if settings:
            raise ScoresError(f"--set: --scorer duplicates starts no actors; got {shown(settings[0])}")
        facts = _find_duplicates(storage, name, options)
    else:
        how: dict[str, Any] = {"address": address, "as_json": as_json, "is_quiet": is_quiet}
        facts = _score(storage, claim, settings, name, scorer, kind, options, **how)
    if as_json:
        print_json({"event": "done", "output": storage.url, "scorer": name, **facts})
    return 0


def _check_options(kind: str, options: ScorerOptions) -> None:
    """Raise ScoresError for an option of another kind, and for one that is missing."""
    given = {key for key, value in dataclasses.asdict(options).items() if value is not None and value is not False}
    if others := sorted(given - TAKES[kind]):
        takes = ", ".join(sorted(map(_option, TAKES[kind]))) or "no options of its own"
        raise ScoresError(f"--scorer {kind} takes {takes}; got {_option(others[0])}")
    if missing := [key for key in NEEDS.get(kind, ()) if key not in given]:
        raise ScoresError(f"--scorer {kind} needs {_option(missing[0])}")
    for key, other in NEEDS_NEXT_TO.items():
        if key in given and other not in given:
            raise ScoresError(f"{_option(key)} needs {_option(other)}")


def _option(key: str) -> str:
    return f"--{key.removeprefix('with_').replace('_', '-')}"


def _score(
    storage: Storage,
    claim: Claim,
    settings: tuple[str, ...],
    name: str,
    written: str,
    kind: str,
    options: ScorerOptions,
    *,
    address: str | None,
    as_json: bool,
    is_quiet: bool,
) -> dict[str, Any]:
    cluster = Cluster(address)
    job = _job(storage, claim, settings, cluster, options.question)
    cluster.check_gpus(job)
    scorer, source = _find_scorer(job, name, written, kind, options)
    with showing(claim.name, storage.url, as_json=as_json, is_quiet=is_quiet) as show:
        scored = score_output(job, scorer, source, cluster, show)
    before = f", {counted(scored.num_parts_before, 'part')} scored before" if scored.num_parts_before else ""
    say(f"done      {counted(scored.num_images, 'image')} in {counted(scored.num_parts, 'part')} scored{before}")
    if scored.num_without_score:
        say(f"no score  {counted(scored.num_without_score, 'image')}: the scorer gave none")
    say(f"scores    {storage.url}/scores/{name}")
    return dataclasses.asdict(scored)


def _find_scorer(job: RenderJob, name: str, written: str, kind: str, options: ScorerOptions) -> Found:
    checkpoint, revision = options.checkpoint or "", options.revision
    if kind == "clip":
        return clip_scorer(name, checkpoint, revision, job.storage, with_embeddings=options.with_embeddings)
    if kind == "aesthetic":
        return aesthetic_scorer(name, checkpoint, revision, job.storage, head=options.head or "")
    if kind == "judge":
        return judge_scorer(
            name,
            job.recipe,
            options.checkpoint,
            revision,
            job.storage,
            question=DEFAULT_QUESTION if options.question is None else options.question,
            caption_tokens=CAPTION_TOKENS if options.with_caption else None,
        )
    return function_scorer(name, written)


def _job(
    storage: Storage, claim: Claim, settings: tuple[str, ...], cluster: Cluster, question: str | None
) -> RenderJob:
    """The job of the output, with its actors as the job file or `--set workers.KEY=VALUE` wants them.

    The question is checked like that of a job file.
    """
    for setting in settings:
        if not setting.startswith("workers."):
            raise ScoresError(f"--set: score takes the keys of `workers`, such as workers.max=2; got {shown(setting)}")
    asked = {} if question is None else {"judge": {"question": question}}
    spec = check_fields({**claim.job_file, **asked, "prompts": claim.prompts, "output": storage.url}, settings)
    num_gpus = cluster.num_gpus() if spec.workers.gpus_per_actor is None else 0
    return claimed_job(storage, claim, workers_of(spec, num_gpus))


def _find_duplicates(storage: Storage, name: str, options: ScorerOptions) -> dict[str, Any]:
    default = Likeness()
    likeness = Likeness(
        max_distance=default.max_distance if options.max_distance is None else options.max_distance,
        embeddings_of=options.embeddings_from,
        min_similarity=default.min_similarity if options.min_similarity is None else options.min_similarity,
    )
    found = score_duplicates(storage, name, likeness)
    say(f"done      {counted(found.num_images, 'image')}, {counted(found.num_duplicates, 'duplicate')}")
    say(f"scores    {storage.url}/scores/{name}")
    return dataclasses.asdict(found)
