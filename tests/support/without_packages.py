"""Code in a Python of its own in which packages cannot be imported."""

import subprocess
import sys

BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise {error}(name + " is blocked", name=name.split(".")[0])
sys.meta_path.insert(0, Blocker())
"""


def run_without(blocked: set[str], code: str, error: type[ImportError] = ImportError) -> str:
    """What `code` prints; it must end well. error: of the import, ModuleNotFoundError for a package that is not there at all."""
    blocker = BLOCKER.format(blocked=blocked, error=error.__name__)
    result = subprocess.run([sys.executable, "-c", blocker + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
