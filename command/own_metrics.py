"""Options of `liveditor evaluate` for metrics that the user brings."""

from __future__ import annotations

import argparse


def add_preference(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--preference", metavar="MODEL",
        help="score edits by this model of people's preference too: the folder of a CLIPModel of transformers with its processor, such as "
        "PickScore, or its repository in the cache; or a folder with HPSv2's .pt file (docs/evaluation.md)",
    )  # fmt: skip


def add_own_metrics(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--own-metrics", nargs="+", default=[], metavar="MODULE",
        help="Python modules of yours with a list METRICS (docs/evaluation.md)",
    )  # fmt: skip
