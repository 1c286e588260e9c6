"""The Python API behind `import janus_batch`: render from a script, a notebook or a Ray driver, and look at outputs."""
