"""The smallest model family: images of two striped colors. docs/adding-a-model-family.md refers to it."""
