"""A run inside the process of another program: a script or a notebook."""
