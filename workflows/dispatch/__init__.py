"""The driver's loop: shards to GPU actors, and what happens when one fails."""
