"""JanusFlow: rectified flow steered by the language model, then the VAE."""
