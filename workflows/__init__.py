"""What the driver does, in the order of the data. Each step imports only steps above it.

job             the resolved job
side_work       what must not change how the work ends: report, metrics, display
row_filter      a condition on rows, as a DuckDB expression
storage         files behind fsspec, their errors, retries, the lease on an output
prompt_files    one file of prompts: its format, conversion, footer, version, columns, row groups
prompts         the prompt files of a job, and ranges of their rows
plan            which row ranges of these files are still to be rendered
rows            the rows of one shard, checked and turned into requests
output          what a job writes: claim, images, manifest parts, rejected rows
looking         the same of a shard whose rows are images to look at
retry_rejected  which rejected rows to retry
dispatch        shards to GPU actors, and what happens when one fails
scores          scores of the images of an output
report          report.html of an output
run             the main function: claim, hold, plan, render, check, count, report
cost            what a job will cost, and how fast this machine renders it
verify          an output checked against its manifest, and repaired
export          an output as a dataset or for a benchmark
"""
