"""Measure a loaded model: prompts and answers of several lengths, alone and together."""
