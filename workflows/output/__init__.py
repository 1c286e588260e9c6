"""What a job writes: the claim, image files, manifest parts and rejected rows."""
