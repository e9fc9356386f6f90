"""Procedural edit data: endless clips of textured moving objects, instructions, and the exact edited clips."""

from ..data.procedural.edits import TASKS, all_instructions
from ..data.procedural.phrases import capabilities
from ..data.procedural.stream import EditBatch, EditStream

__all__ = ["TASKS", "EditBatch", "EditStream", "all_instructions", "capabilities"]
