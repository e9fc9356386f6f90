"""Attention alone: time, memory and error of ISA and of other implementations."""
