"""What programs do with `--help`, asked in forks of one Python that has imported what most of them are slow to import.

Run by tests/test_help.py: python asking_for_help.py PROGRAM..., each a script's path or a module's name. Prints a JSON object
{PROGRAM: [exit status, what it printed]}.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback

SLOW = (
    "kornia",
    "scipy.stats",
    "matplotlib.pyplot",
    "comfy.sd",
    "liveditor_isa.nodes.references",
    "liveditor_isa.pipelines.pipeline",
)


def status_of(program: str) -> int:
    sys.argv = [program, "--help"]
    try:
        if program.endswith(".py"):
            sys.path.insert(0, os.path.dirname(program))
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def asked(program: str) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as shown:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            os.dup2(shown.fileno(), 1)
            os.dup2(shown.fileno(), 2)
            status = status_of(program)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shown.seek(0)
        return status, shown.read()


if __name__ == "__main__":
    from comfy_headless import COMFYUI, import_comfy

    if (COMFYUI / "main.py").exists():
        import_comfy()
    for name in SLOW:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    print(json.dumps({program: asked(program) for program in sys.argv[1:]}))
