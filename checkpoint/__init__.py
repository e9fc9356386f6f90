"""LIVEditor checkpoints without a host program: opening, names of weights, conversion, the included files."""
