"""The options of `liveditor evaluate score` that choose a judge."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..evaluation.judge.client import KEY_VARIABLE, Endpoint
from ..evaluation.judge.local import LocalVLM
from .options import whole_number


def add_judge_options(parser: argparse.ArgumentParser):
    judge = parser.add_argument_group(
        "judge",
        f"A model that sees frames: behind an OpenAI-compatible endpoint, whose key is read from {KEY_VARIABLE}, or in this process.",
    )
    judge.add_argument("--judge-url", metavar="URL", help="up to /v1, such as http://localhost:8000/v1 of a local vLLM")
    judge.add_argument("--judge-model", metavar="NAME", help="as the server calls it")
    judge.add_argument(
        "--judge-timeout", type=float, default=Endpoint.timeout, metavar="S", help="of an answer (default: %(default)s)"
    )
    judge.add_argument(
        "--judge-attempts", type=whole_number, default=Endpoint.attempts, metavar="N", help="for one answer (default: %(default)s)",
    )  # fmt: skip
    judge.add_argument(
        "--judge-folder", type=Path, metavar="DIR", help="in the place of these, a VLM of transformers, which each worker loads"
    )


def judge_of(options: argparse.Namespace) -> Endpoint | LocalVLM | None:
    """None where no judge is asked for. Raises ValueError in one sentence where it is not wholly named."""
    if options.judge_folder and (options.judge_url or options.judge_model):
        raise ValueError("There is one judge: give --judge-folder, or --judge-url and --judge-model.")
    if options.judge_folder:
        return LocalVLM(str(options.judge_folder.resolve()))
    if not options.judge_url and not options.judge_model:
        return None
    if not (options.judge_url and options.judge_model):
        raise ValueError("A judge needs both --judge-url and --judge-model.")
    return Endpoint(
        options.judge_url, options.judge_model, os.environ.get(KEY_VARIABLE), options.judge_timeout, options.judge_attempts
    )
