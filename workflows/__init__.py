"""What the driver does, in the order of the data: prompts, plan, pool, dispatch, commit, resume."""
