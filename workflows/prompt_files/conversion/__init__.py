"""Prompts in other formats than Parquet: CSV, JSON lines, plain text and Arrow, converted to Parquet once."""
