"""Scores of edited videos: benches, metrics, judges and reports, for any editor's results.

`items` what is edited and what a right edit is, `benches` the layouts and aggregates of published benches, `metrics` and `judge`
numbers of one item, `scoring` all numbers of all items, stored as they come, `report` tables and pages.
"""

EXTRA = "evaluation"
"""This project's, which brings all that this folder imports."""
