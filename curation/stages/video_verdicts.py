"""A VLM's verdict on the edited video."""

from ..settings import About
from ..verdicts import edit_file, load, rows

__all__ = ["edit_file", "load", "rows"]

ABOUT = About("verdicts on videos", ("vlm_model",), only_asks=True, questions=lambda settings: 1)
