"""Runs code blocks of a page in the present folder, one after the other, as its reader would.

Needs nothing but Python: `fresh_installs.py` has the Python of a new environment run it.

    python run_blocks.py < blocks.json      [[name, language, code], ...]
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path


def run_all(blocks):
    """blocks: (name, language, code). Python blocks share their names; a list of clips is written to a file.

    Raises AssertionError for a command that fails, and what Python raises."""
    names: dict = {"__name__": "page"}
    for name, language, code in blocks:
        if language == "jsonl":
            Path("clips.jsonl").write_text(code, encoding="utf-8")
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, name, "exec"), names)
        elif language == "sh":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, encoding="utf-8")
            assert done.returncode == 0, f"{name} ends with status {done.returncode}: {done.stdout}\n{done.stderr}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    run_all(json.load(sys.stdin))
