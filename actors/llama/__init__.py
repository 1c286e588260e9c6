"""The decoder-only language model that both families share: `Llama` for a CPU, `PackedLlama` for a GPU."""
