"""Data for training and evaluation. Needs no host program."""
