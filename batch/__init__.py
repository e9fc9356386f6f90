"""Edits of many clips: a manifest in, one mp4 per row out. The work is Ray Data's; here is what makes it safe to repeat."""
