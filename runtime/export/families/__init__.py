"""Decoder families as data: how each one's config.json and tensors are to be read."""
