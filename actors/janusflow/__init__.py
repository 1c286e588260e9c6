"""JanusFlow: rectified flow guided by the language model, then the VAE."""
