"""The dispatch loop: shards to GPU actors on a Ray cluster, and what happens when one fails."""
