"""How Janus and JanusFlow look at images: pixels, vision tower, aligner, prompts with images, answers and scores."""
