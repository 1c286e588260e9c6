"""Shards that ended actors again and again, rendered alone and by halves until the rows to blame are known."""

from __future__ import annotations

from collections.abc import Iterable

from workflows.dispatch import failures as losses
from workflows.dispatch import pool
from workflows.dispatch.bisection import Halving, NotTheRowsError, RowRange
from workflows.dispatch.failures import PaintingFailedError, reason_of
from workflows.dispatch.steps import Painted, RowsRef, ShardPath, Worker
from workflows.output import commit
from workflows.plan import Shard

NUM_WITNESS_ROWS = 4  # rendered by a new actor before a row may be blamed for its end


class Isolation:
    """What is known of the shards being halved. It outlives the actors that render them."""

    def __init__(self, path: ShardPath) -> None:
        self._path = path
        self._halvings: dict[str, Halving] = {}
        self._good: Shard | None = None  # a shard of this run whose rows were rendered

    def may_take(self, shard: Shard, worker: Worker, others: Iterable[Worker]) -> bool:
        """A row that failed by itself is tried on another node next, if there is one."""
        halving = self._halvings.get(shard.id)
        if halving is None or not halving.is_at_a_row or worker.card.node != halving.last_failed_on:
            return True
        return all(other.card.node == worker.card.node for other in others)

    def finished(self, shard: Shard, receipt: commit.Receipt) -> None:
        """The shard is committed; its rows may be witnesses for others."""
        self._halvings.pop(shard.id, None)
        if receipt.num_images:
            self._good = shard

    async def render(self, worker: Worker, shard: Shard) -> commit.Receipt:
        """Render what is left of the shard with an actor that has nothing else, and commit it.

        Raises PaintingFailedError when the actor fails over a range: a fresh one goes on. Raises NotTheRowsError when
        no end can be found.
        """
        halving = self._halvings.setdefault(shard.id, Halving(shard.num_rows))
        rows = await self._path.read(shard)
        while (row_range := halving.next_range) is not None:
            await self._prove(worker, shard, rows, halving)
            painted = await self._paint(worker, shard, rows, halving, row_range)
            halving.passed(row_range, painted, has_images=painted.num_images > 0)
        try:
            return await self._path.commit(rows, halving.rendered, halving.condemned)
        except Exception as error:
            if losses.is_loss(error):  # perhaps of what was painted
                self._path.uncount(worker, sum(painted.num_images for painted in halving.rendered))
                halving.forget_rendered()
            raise

    async def _prove(self, worker: Worker, shard: Shard, rows: RowsRef, halving: Halving) -> None:
        """Let a fresh actor render rows that are known to be good: its failure then is no row's fault. Where the shard
        has one row to render and the run no other, a plain prompt stands in for them.
        """
        if worker.num_images:
            return
        try:
            if (good := halving.good_range) is not None:
                witness, witness_rows = shard, rows
            elif self._good is not None:
                witness, witness_rows = self._good, await self._path.read(self._good)
                good = RowRange(start=0, stop=witness.num_rows)
            else:
                await self._path.paint_plain(worker, rows)
                return
            few = RowRange(start=good.start, stop=min(good.stop, good.start + NUM_WITNESS_ROWS))
            painted = await self._path.paint(worker, witness, witness_rows, few)
        except PaintingFailedError:
            halving.witness_failed()
            raise
        self._path.uncount(worker, painted.num_images)

    async def _paint(
        self, worker: Worker, shard: Shard, rows: RowsRef, halving: Halving, row_range: RowRange
    ) -> Painted:
        """Paint a range; its failure is noted, unless the node or the driver's own decision ended the actor."""
        is_proven = worker.num_images > 0
        try:
            return await self._path.paint(worker, shard, rows, row_range)
        except PaintingFailedError as error:
            if error.is_preempted or not pool.is_node_alive(worker.card.node):
                raise
            reason = worker.loss or reason_of(error.cause)
            try:
                halving.failed(row_range, reason, is_proven=is_proven, where=worker.card.node)
            except NotTheRowsError as given_up:
                if not error.is_actor_lost and not self._path.num_made:
                    raise (error.__cause__ or error) from None  # it fails over every row: with its traceback
                raise NotTheRowsError(f"{given_up}; the last failure: {reason}") from error
            raise
