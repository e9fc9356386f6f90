"""The example that teaches LIVEditor-tiny a new style: what it writes shows that it was learnt."""

import json
import subprocess
import sys

import pytest
from comfy_headless import ROOT


@pytest.mark.long
def test_a_new_style_is_learnt_and_scored(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/train/new_style.py"), str(tmp_path)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert losses[-1] < losses[0] / 3
    report = (tmp_path / "after/scores/report/report.md").read_text(encoding="utf-8")
    gained = next(line for line in report.splitlines() if line.startswith("| psnr_reference | +"))
    assert float(gained.split("|")[2]) > 6
