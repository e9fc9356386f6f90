"""Frames to a file: formats, colours, sound, names, and the ffmpeg that encodes."""
