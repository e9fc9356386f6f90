"""The command line `liveditor`: LIVEditor without ComfyUI. One module per command, imported when the command is used."""

from __future__ import annotations

import argparse
import importlib
import sys

from ..version import __version__
from .failure import reported
from .output import lenient_output

COMMANDS = {
    "edit": ("command.edit", "edit a video as an instruction says"),
    "batch": ("command.batch", "edit many videos, on this machine or on a Ray cluster"),
    "evaluate": ("command.evaluate", "score edited videos, of benches and your own, this editor's and any other's"),
    "data": ("command.data", "make training pairs of raw clips, in stages with gates"),
    "convert": ("command.convert", "convert a checkpoint, for ComfyUI or for diffusers"),
    "benchmark": ("command.benchmark", "measure what sparse attention brings on this machine"),
}
"""{name: (module in this package, what it is for)}. A module has `add_arguments(parser)` and `run(options) -> exit status`."""

EPILOG = """\
examples:
  liveditor edit holiday.mp4 "Make the video look like sunset"
  liveditor edit holiday.mp4 "Let it snow" --model liveditor_ckpt.bin --text-encoder umt5_xxl_fp16.safetensors \\
      --vae wan_2.1_vae.safetensors
  liveditor batch clips.jsonl --out edited
  liveditor benchmark

Without --model the included LIVEditor-tiny edits, also without a GPU. `liveditor COMMAND --help` says more;
`liveditor --debug COMMAND ...` shows the whole traceback of an error, for a report.
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr that names the error."""
    with lenient_output():
        return _run(sys.argv[1:] if arguments is None else arguments)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage, which is longer than a screen."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def _run(arguments: list[str]) -> int:
    commands = "\n".join(f"  {name:<11}{what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="liveditor",
        usage="liveditor [--debug] COMMAND ...",
        description=f"Instruction-driven video editing with LIVEditor and In-context Sparse Attention.\n\ncommands:\n{commands}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    if not arguments:
        parser.print_help()
        return 2
    chosen = parser.parse_args(arguments)

    module = importlib.import_module(f"..{COMMANDS[chosen.command][0]}", __name__)
    own = Parser(prog=f"liveditor {chosen.command}", formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(own)
    own.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    options = own.parse_args(chosen.rest)
    options.debug |= chosen.debug
    try:
        return module.run(options)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return reported(chosen.command, error, options.debug)
    except KeyboardInterrupt:
        print(f"\nliveditor {chosen.command}: stopped; nothing was written.", file=sys.stderr)
        return 130
