"""The files that a job writes: the claim, images, manifest parts and rejected rows."""
