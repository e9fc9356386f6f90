"""A VLM's verdict on the edited video."""

from ..verdicts import edit_file, load, rows

__all__ = ["edit_file", "load", "rows"]

TITLE, DEPENDS, USES_MODEL = "verdicts on videos", ("vlm_model",), False
