"""Code in a Python of its own in which packages cannot be imported."""

import subprocess
import sys

BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
"""


def run_without(blocked: set[str], code: str) -> str:
    """What `code` prints; it must end well."""
    result = subprocess.run([sys.executable, "-c", BLOCKER.format(blocked=blocked) + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
