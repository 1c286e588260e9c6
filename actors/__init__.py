"""The part that runs in a GPU process. It knows nothing about Ray, jobs or storage layouts."""
