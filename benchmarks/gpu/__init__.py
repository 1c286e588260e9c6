"""The benchmark of a GPU: same bytes, the engines' speed and each kernel's, as shares of what the device allows."""
