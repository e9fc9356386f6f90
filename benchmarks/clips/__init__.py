"""Whole clips: long videos, colours, memory of reading, many clips."""
