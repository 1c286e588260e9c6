"""The path of one shard through one actor: read its rows, render them, write each batch as it comes, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
import ray
from ray import exceptions as ray_errors

from actors.request import Answer, AnyRequest, LookRequest, Rejection
from workflows.dispatch.actor import MAX_TASKS_PER_ACTOR, Actor
from workflows.dispatch.bisection import RowRange
from workflows.dispatch.failures import RenderFailedError, cause_of, is_failure_of_actor
from workflows.dispatch.metrics import timed
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.looking.rows import read_look_shard
from workflows.output import answers, commit, images
from workflows.plan import Shard
from workflows.retry_rejected import read_rejected
from workflows.rows import ShardRows, read_shard
from workflows.storage.retry import retry_storage

PLAIN_PROMPT = "a red circle"  # a prompt that cannot be at fault

# As text: Ray's class takes no parameters when the program runs.
RowsRef: TypeAlias = "ray.ObjectRef[ShardRows]"
RequestsRef: TypeAlias = "ray.ObjectRef[list[AnyRequest]]"
Counts: TypeAlias = "tuple[int, int, int, images.Looks]"  # images, bytes, the batch's moment, what looking cost
BatchRef: TypeAlias = "ray.ObjectRef[list[Answer]]"
P = ParamSpec("P")
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadShard:
    """References to a shard that was read: its requests, for the actor, and the rest of its rows, for the commit.

    The rest holds the columns that the user's prompt file carries; they never reach an actor.
    """

    shard: Shard
    requests: RequestsRef
    rest: RowsRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """References to the written batches of a shard, or of a range of its rows, and how many images they hold."""

    written: list[ray.ObjectRef[images.WrittenBatch]]
    num_images: int


class ShardSteps:
    """The steps of a shard's path as Ray calls. The driver gets references and counts, never rows or pixels.

    `listening(actor)` surrounds every wait for a batch of an actor.
    """

    def __init__(
        self, job: RenderJob, progress: Progress, listening: Callable[[Actor], AbstractContextManager[None]]
    ) -> None:
        self._progress, self._listening = progress, listening
        self.num_rendered = 0  # images of all attempts, committed or not
        self._job_ref = ray.put(job)
        self._read = ray.remote(_read_shard).options(num_cpus=0, num_returns=3)
        self._select = ray.remote(_select_rows).options(num_cpus=0)
        self._write = ray.remote(_write_batch).options(num_cpus=0, num_returns=2)
        self._commit = ray.remote(_commit_shard).options(num_cpus=0)
        self._plain = ray.remote(_plain_request).options(num_cpus=0, num_returns=2)
        self._count_images = ray.remote(_count_images).options(num_cpus=0)

    async def read(self, actor: Actor, shard: Shard) -> ReadShard:
        """Read a shard for an actor and wait for it, so that slow storage does not look like a silent actor."""
        async with actor.tasks:
            refs = cast("tuple[RequestsRef, RowsRef, ray.ObjectRef[None]]", self._read.remote(self._job_ref, shard))
            requests, rest, is_read = refs
            await is_read
        return ReadShard(shard=shard, requests=requests, rest=rest)

    async def render(self, actor: Actor, read: ReadShard, rows: RowRange | None = None) -> Rendered:
        """Render a shard, or a range of its rows, and write the images. Raises RenderFailedError if the actor fails."""
        requests = read.requests if rows is None else self._select.remote(read.requests, read.rest, rows)
        batches: ray.ObjectRefGenerator = actor.handle.render.options(num_returns="streaming").remote(requests)
        written: list[ray.ObjectRef[images.WrittenBatch]] = []
        counts: list[asyncio.Future[int]] = []
        try:
            while (batch := await self._next_batch(actor, batches)) is not None:
                await actor.tasks.acquire()
                part, counted = _both(self._write.remote(self._job_ref, read.shard.id, actor.card.device, batch))
                written.append(part)
                counts.append(asyncio.ensure_future(self._count(actor, part, counted)))
                counts[-1].add_done_callback(lambda _: actor.tasks.release())
                if len(counts) > MAX_TASKS_PER_ACTOR:
                    await counts[-1 - MAX_TASKS_PER_ACTOR]  # done; raises the error if it could not be written
            return Rendered(written=written, num_images=sum(await asyncio.gather(*counts)))
        except BaseException as error:
            ray.cancel(batches)  # otherwise the actor renders the rest of the shard in vain
            await self._uncount_all(actor, counts)
            if is_failure_of_actor(error):  # the actor's error is an item of its stream, so the writer raises it
                raise RenderFailedError(cause_of(error)) from error
            raise

    async def render_plain(self, actor: Actor, read: ReadShard) -> None:
        """If the shard has a single prompt to render, render a plain prompt in its place and drop the image.

        Raises RenderFailedError if the actor fails over the plain prompt, too.
        """
        plain, is_single = _both(self._plain.remote(read.requests, PLAIN_PROMPT))
        if not await is_single:
            return
        batches: ray.ObjectRefGenerator = actor.handle.render.options(num_returns="streaming").remote(plain)
        try:
            while (batch := await self._next_batch(actor, batches)) is not None:
                actor.num_images += await self._count_images.remote(batch)
        except BaseException as error:
            if is_failure_of_actor(error):
                raise RenderFailedError(cause_of(error)) from error
            raise

    async def commit(
        self, actor: Actor, read: ReadShard, rendered: Iterable[Rendered], rejected: Mapping[int, str] | None = None
    ) -> commit.Receipt:
        """Commit the rendered images; `rejected` gives the reasons for rows that failed their actors, by row number."""
        written = [part for one in rendered for part in one.written]
        async with actor.tasks:
            return await self._commit.remote(self._job_ref, read.requests, read.rest, dict(rejected or {}), *written)

    def uncount(self, actor: Actor, num_images: int) -> None:
        """Take images back that another attempt counts."""
        self._progress.images_are_taken_back(actor.slot, num_images)

    async def _next_batch(self, actor: Actor, batches: ray.ObjectRefGenerator) -> BatchRef | None:
        with self._listening(actor):
            try:
                batch: BatchRef = await anext(batches)
                if batch == batches.completed():  # the last item of a broken stream: awaiting it raises the error
                    await batch
                return batch
            except StopAsyncIteration:
                return None
            except ray_errors.OutOfMemoryError as error:  # of the actor's process, not of a writer's
                raise RenderFailedError(error) from error

    async def _count(
        self, actor: Actor, part: ray.ObjectRef[images.WrittenBatch], counted: ray.ObjectRef[Counts]
    ) -> int:
        """Add a batch to the progress as soon as it is written; returns its number of images."""
        num_images, num_bytes, moment, looks = await counted
        actor.num_images += num_images
        self.num_rendered += num_images
        self._progress.images_are_written(actor.slot, num_images, num_bytes, moment)
        self._progress.images_are_judged(looks.num_candidates, looks.num_rerolls, looks.seconds)
        self._progress.newest.append(part)
        return num_images

    async def _uncount_all(self, actor: Actor, counts: list[asyncio.Future[int]]) -> None:
        """Take the images of a failed attempt back: the next attempt counts them."""
        for count in counts:
            count.cancel()
        results = await asyncio.gather(*counts, return_exceptions=True)
        self.uncount(actor, sum(result for result in results if isinstance(result, int)))


def _both(refs: ray.ObjectRef[tuple[First, Second]]) -> tuple[ray.ObjectRef[First], ray.ObjectRef[Second]]:
    """The result of a call with `num_returns=2`, which Ray's type hints do not know."""
    return cast("tuple[ray.ObjectRef[First], ray.ObjectRef[Second]]", refs)


# ---- Ray tasks -------------------------------------------------------------------------------------------------------


def _read_shard(job: RenderJob, shard: Shard) -> tuple[Sequence[AnyRequest], ShardRows, None]:
    read = read_shard if job.recipe.look is None else read_look_shard
    if shard.retry:
        read = read_rejected
    rows = retry_storage(shard.file.url, job.workers.storage_retry_seconds, read, job, shard)
    return rows.requests, replace(rows, requests=[]), None


def _select_rows(requests: list[AnyRequest], rest: ShardRows, rows: RowRange) -> list[AnyRequest]:
    """The requests of a range of the shard's rows."""
    return [request for request in requests if rows.start <= rest.row_of[request.prompt_id] < rows.stop]


def _write_batch(job: RenderJob, shard_id: str, device: str, batch: list[Answer]) -> tuple[images.WrittenBatch, Counts]:
    """Write a batch; the driver fetches only the second part: its counts."""
    with timed("janus_batch_write_seconds", job.name):
        if job.recipe.look is None:
            written = _on_output(job, images.write_batch, job, shard_id, device, batch)
        else:
            written = answers.answer_batch(job, device, cast("Any", batch))
    return written, (len(written.rows), written.num_bytes, written.moment, written.looks)


def _plain_request(requests: list[AnyRequest], prompt: str) -> tuple[list[AnyRequest], bool]:
    """If all requests are of one row: one of them, with another prompt."""
    if len({request.prompt_id for request in requests}) != 1:
        return [], False
    if isinstance(requests[0], LookRequest):
        return [replace(requests[0], prompt=prompt, picture=np.full_like(requests[0].picture, 127))], True
    return [replace(requests[0], prompt=prompt, negative_prompt=None)], True


def _count_images(batch: list[Answer]) -> int:
    return sum(not isinstance(answer, Rejection) for _, answer in batch)


def _commit_shard(
    job: RenderJob,
    requests: list[AnyRequest],
    rest: ShardRows,
    reasons: dict[int, str],
    *written: images.WrittenBatch,
) -> commit.Receipt:
    """Commit a shard. `reasons` rejects rows, by their number in the shard."""
    pairs = [(request, reasons.get(rest.row_of[request.prompt_id])) for request in requests]
    rejected = [(request, reason) for request, reason in pairs if reason is not None]
    failed_rows = images.WrittenBatch(rows=[], packed={}, rejected=rejected, num_bytes=0)
    rows = replace(rest, requests=requests)
    with timed("janus_batch_commit_seconds", job.name):
        return _on_output(job, commit.commit_shard, job, rows, failed_rows, *written)


def _on_output(job: RenderJob, step: Callable[P, First], *args: P.args, **kwargs: P.kwargs) -> First:
    return retry_storage(job.output, job.workers.storage_retry_seconds, step, *args, **kwargs)
