"""How a running job is shown to people and programs."""
