"""Job files for public benchmarks, and a script that converts their prompts."""
