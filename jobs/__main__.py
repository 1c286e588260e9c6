"""`python -m jobs VERB ...`: the same program as `janus-batch VERB ...`, without an installed script."""

from janus_batch import main

if __name__ == "__main__":
    main()
