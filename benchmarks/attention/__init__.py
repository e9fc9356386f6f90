"""Attention alone: time, memory and error of ISA beside its rivals."""
