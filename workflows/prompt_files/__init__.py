"""Parquet files of prompts: what is listed, what their footers say, and how their columns are carried."""
