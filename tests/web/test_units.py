"""The page's functions that need no page, in Node's own test runner: python -m pytest tests/web/test_units.py, or
node --test tests/web/unit/*.test.mjs."""

import shutil
import subprocess
from pathlib import Path

import pytest

OLDEST = (18, 19)
"""From here on Node lets a test say where an import is found."""


def why_not() -> str | None:
    if not (node := shutil.which("node")):
        return "needs Node.js"
    found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if tuple(map(int, found.lstrip("v").split(".")[:2])) < OLDEST:
        return f"needs Node.js {'.'.join(map(str, OLDEST))}; this is {found}"
    return None


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "")
@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "unit").glob("*.test.mjs")), ids=lambda path: path.stem)
def test_in_node(path):
    done = subprocess.run(["node", "--test", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
