"""Procedural edit data: endless clips of textured moving objects, instructions, and the exact edited clips."""

from .edits import TASKS, all_instructions
from .phrases import capabilities
from .stream import EditBatch, EditStream

__all__ = ["TASKS", "EditBatch", "EditStream", "all_instructions", "capabilities"]
