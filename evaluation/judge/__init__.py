"""Judges: language models that see source and edit, and score what numbers of pixels cannot."""
