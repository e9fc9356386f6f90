"""Measurements, run as modules of the installed checkout: `python -m liveditor_isa.benchmarks.attention.table`."""
