"""Drawn edits: endless clips of textured moving objects, instructions, and the exact edited clips."""
