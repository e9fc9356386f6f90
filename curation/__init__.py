"""The data pipeline: real clips in, gated training pairs with their instructions out; `liveditor data`.

`settings` numbers that a run is made with, `gates` what is kept and why, `stages` the work, one file each, `flow` their order,
`funnel` and `report` what became of everything, `editors` and `planners` models behind one signature, `formats` other trainers' files.

It stands above `evaluation`, whose metrics its gates read, while `data` is below it: a bench draws its items from there.
"""

EXTRA = "data"
"""This project's, which brings all that this folder imports."""
