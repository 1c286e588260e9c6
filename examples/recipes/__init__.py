"""Jobs for public benchmarks, and the command that makes their prompt files."""
