"""Shards that failed actors again and again are rendered alone and bisected until the rows at fault are found."""

from __future__ import annotations

from collections.abc import Iterable

from workflows.dispatch.actor import Actor
from workflows.dispatch.bisection import Bisection, BisectionLimits, NotTheRowsError, RowRange
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.failures import RenderFailedError, is_system_failure, reason_of
from workflows.dispatch.steps import ReadShard, Rendered, ShardSteps
from workflows.output import commit
from workflows.plan import Shard

NUM_WITNESS_ROWS = 4  # rendered by a new actor before its failure may be blamed on a row


class Isolation:
    """The bisections of a run. They outlive the actors that render for them."""

    def __init__(self, cluster: Cluster, steps: ShardSteps, limits: BisectionLimits) -> None:
        self._cluster, self._steps, self._limits = cluster, steps, limits
        self._bisections: dict[str, Bisection] = {}
        self._good: Shard | None = None  # a shard of this run that gave images

    def may_take(self, shard: Shard, actor: Actor, actors: Iterable[Actor]) -> bool:
        """A row that failed by itself goes to another node next, if there is one."""
        bisection = self._bisections.get(shard.id)
        if bisection is None or not bisection.is_at_a_row or actor.card.node != bisection.last_failed_on:
            return True
        return all(other.card.node == actor.card.node for other in actors)

    def finished(self, shard: Shard, receipt: commit.Receipt) -> None:
        """The shard is committed; its rows can serve as witnesses for other shards."""
        self._bisections.pop(shard.id, None)
        if receipt.num_images:
            self._good = shard

    async def render(self, actor: Actor, shard: Shard) -> commit.Receipt:
        """Render the remaining ranges of the shard with an actor that holds no other shard, and commit it.

        Raises RenderFailedError when the actor fails over a range: another actor continues. Raises NotTheRowsError
        when the bisection gives up.
        """
        bisection = self._bisections.setdefault(shard.id, Bisection(shard.num_rows, self._limits))
        read = await self._steps.read(actor, shard)
        while (rows := bisection.next_range) is not None:
            await self._prove(actor, read, bisection)
            rendered = await self._render_range(actor, read, bisection, rows)
            bisection.passed(rows, rendered, has_images=rendered.num_images > 0)
        try:
            return await self._steps.commit(actor, read, bisection.rendered, bisection.rejected)
        except Exception as error:
            if is_system_failure(error):  # it may have taken rendered images along
                self._steps.uncount(actor, sum(rendered.num_images for rendered in bisection.rendered))
                bisection.forget_rendered()
            raise

    async def _prove(self, actor: Actor, read: ReadShard, bisection: Bisection) -> None:
        """Let a new actor render rows known to be good: if it fails over them, no row is at fault.

        A plain prompt takes their place if the shard has one row to render and the run has no other images.
        """
        if actor.num_images:
            return
        try:
            if (good := bisection.good_range) is not None:
                witness = read
            elif self._good is not None:
                witness, good = await self._steps.read(actor, self._good), RowRange(start=0, stop=self._good.num_rows)
            else:
                await self._steps.render_plain(actor, read)
                return
            few = RowRange(start=good.start, stop=min(good.stop, good.start + NUM_WITNESS_ROWS))
            rendered = await self._steps.render(actor, witness, few)
        except RenderFailedError:
            bisection.witness_failed()
            raise
        self._steps.uncount(actor, rendered.num_images)

    async def _render_range(self, actor: Actor, read: ReadShard, bisection: Bisection, rows: RowRange) -> Rendered:
        """Render a range. A failure is recorded, unless the node was lost or Ray preempted the actor."""
        is_proven = actor.num_images > 0
        try:
            return await self._steps.render(actor, read, rows)
        except RenderFailedError as error:
            if error.is_preempted or not self._cluster.is_node_alive(actor.card.node):
                raise
            reason = actor.failure or reason_of(error.cause)
            try:
                bisection.failed(rows, reason, is_proven=is_proven, where=actor.card.node)
            except NotTheRowsError as given_up:
                if not error.is_actor_lost and not self._steps.num_rendered:
                    raise (error.__cause__ or error) from None  # every row fails: show the engine's traceback
                raise NotTheRowsError(f"{given_up}; the last failure: {reason}") from error
            raise
