"""Edits of many clips: a manifest in, one mp4 per row out. Ray Data schedules the work; this package makes it safe to repeat."""
