"""The command line `liveditor`: LIVEditor without ComfyUI. One module per command, imported when the command is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from ..optional import missing, needed
from ..pipelines import EXTRA
from ..runtime.torchrun import is_first
from ..version import __version__
from .config import arguments_from
from .failure import reported
from .outcome import STATUSES, Outcome, Status, failure
from .output import lenient_output

COMMANDS = {
    "edit": ("command.edit", "edit a video as an instruction says"),
    "batch": ("command.batch", "edit many videos, on this machine or on a Ray cluster"),
    "serve": ("command.serve", "hold the model and edit what clients send: an OpenAI-style endpoint, and a page"),
    "evaluate": ("command.evaluate", "score edited videos, of benches and your own, this editor's and any other's"),
    "data": ("command.data", "make training pairs of raw clips, in stages with gates"),
    "train": ("command.train", "train the editor's network on such pairs, whole or as a LoRA"),
    "calibrate": ("command.calibrate", "find the threshold that costs as much as a ratio of sparse attention"),
    "convert": ("command.convert", "convert a checkpoint, for ComfyUI or for diffusers"),
    "benchmark": ("command.benchmark", "measure what sparse attention brings on this machine"),
}
"""{name: (module in this package, what it is for)}. A module has `add_arguments(parser)` and `run(options) -> Outcome`."""

EXTRAS = {"batch": "batch", "serve": "serve", "evaluate": "evaluation", "data": "data"}
"""Of this project's extras, the one that brings all that a command needs; for other commands, `pipelines.EXTRA` does."""

COMPLETION = "completion"
"""The command that prints a shell's script for completion."""

EPILOG = f"""\
examples:
  liveditor edit holiday.mp4 "Make the video look like sunset"
  liveditor edit holiday.mp4 "Let it snow" --model liveditor_ckpt.bin --text-encoder umt5_xxl_fp16.safetensors \\
      --vae wan_2.1_vae.safetensors
  liveditor batch clips.jsonl --out edited
  liveditor benchmark
  eval "$(liveditor completion bash)"      in ~/.bashrc: the shell completes commands and options; zsh, tcsh too

{STATUSES}.

Without --model the included LIVEditor-tiny edits, also without a GPU. `liveditor COMMAND --help` says more;
`liveditor --debug COMMAND ...` shows the whole traceback of an error, for a report.
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit status, one of `outcome.Status`. 2 comes with one line on stderr that names the error."""
    with lenient_output():
        return _run(sys.argv[1:] if arguments is None else arguments)


class WrongOption(Exception):
    """What is wrong with a command line, in one line: the usage is longer than a screen."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise WrongOption(f"{self.prog}: {message} ({self.prog} --help lists the options)")


def general_parser() -> Parser:
    """Of what stands in front of a command."""
    commands = "\n".join(f"  {name:<11}{what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="liveditor",
        usage="liveditor [--debug] COMMAND ...",
        description=f"Instruction-driven video editing with LIVEditor and In-context Sparse Attention.\n\ncommands:\n{commands}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser


def add_command(command: str, parser: argparse.ArgumentParser):
    """The command's own options, and those of all. Returns its module."""
    module = importlib.import_module(f"..{COMMANDS[command][0]}", __name__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    for table, each in with_steps(command, parser).items():
        _add_options_of_all(each, table)
    return module


def with_steps(command: str, parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """{name in a file of options: parser}, of the command or, where it has steps, of each of them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {f"{command}.{step}": each for step, each in action.choices.items()}
    return {command: parser}


def _add_options_of_all(parser: argparse.ArgumentParser, table: str):
    every = parser.add_argument_group("every command")
    every.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"options from the table [{table}] of a TOML file; those given here go before",
    )
    every.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, at the end; all else goes to stderr"
    )
    every.add_argument("--quiet", action="store_true", help="print nothing but warnings, errors and --json's object")
    every.add_argument("--debug", action="store_true", help="show the whole traceback of an error")


def _run(arguments: list[str]) -> int:
    if not arguments:
        general_parser().print_help()
        return Status.FAILED
    command, out = None, sys.stdout
    try:
        parser = general_parser()
        parser.add_argument("command", choices=[*COMMANDS, COMPLETION], metavar="COMMAND", help=argparse.SUPPRESS)
        parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        chosen = parser.parse_args(arguments)
        if chosen.command == COMPLETION:
            return _print_completion(chosen.rest)
        command = chosen.command
        own = Parser(prog=f"liveditor {command}")
        module = add_command(command, own)
        options = _options(own, module, command, chosen.rest)
    except ModuleNotFoundError as error:
        return reported(command, _missing(command, error), chosen.debug).status
    except WrongOption as error:
        print(error, file=sys.stderr)
        if "--json" in arguments:
            print(failure(str(error)).as_json(command))
        raise SystemExit(Status.FAILED) from None
    options.debug |= chosen.debug
    with _shown(options):
        outcome = _outcome(module, command, options)
    if options.json and is_first():
        print(outcome.as_json(command), file=out)
    return outcome.status


def _options(parser: Parser, module, command: str, given: list[str]) -> argparse.Namespace:
    """Of the command line, before that of --config's file, before that of a command's --repeat. One of a list replaces the whole list."""
    tables = with_steps(command, parser)
    step = given[:1] if f"{command}.{''.join(given[:1])}" in tables else []
    table, rest = ".".join([command, *step]), given[len(step) :]
    if table not in tables:  # no step, or none that there is
        return parser.parse_args(given)
    own, found = tables[table], []
    try:
        said = _first_pass(own, rest)
        if said.config:
            found = arguments_from(said.config, table, [*COMMANDS], own, vars(said))
        said = _first_pass(own, [*found, *rest])
        if repeated := getattr(said, "repeat", None):
            own.set_defaults(
                **{name: value for name, value in module.recorded(repeated, own).items() if not vars(said).get(name)}
            )
        return parser.parse_args([*step, *found, *rest])
    except ValueError as error:
        raise WrongOption(f"liveditor {command}: {error}") from None


def _first_pass(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """What the others depend on: the files that give more options, and what is given several times."""
    first = Parser(prog=parser.prog, add_help=False)
    for action in parser._actions:
        if isinstance(action, argparse._AppendAction):
            first.add_argument(*action.option_strings, dest=action.dest, action="append")
        elif action.dest in ("config", "repeat"):
            first.add_argument(*action.option_strings, dest=action.dest, type=Path)
    return first.parse_known_args(arguments)[0]


@contextmanager
def _shown(options: argparse.Namespace):
    """Where the lines of a command go."""
    if options.quiet:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    elif options.json:
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def _outcome(module, command: str, options: argparse.Namespace) -> Outcome:
    try:
        return module.run(options)
    except ModuleNotFoundError as error:
        return reported(command, _missing(command, error), options.debug)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return reported(command, error, options.debug)
    except KeyboardInterrupt:
        print(f"\nliveditor {command}: stopped; nothing was written.", file=sys.stderr)
        return failure("stopped; nothing was written", Status.STOPPED)


def _missing(command: str, error: ModuleNotFoundError) -> RuntimeError:
    """Of a package that a module imports at its top."""
    package = (error.name or str(error)).partition(".")[0]
    return missing(package, EXTRAS.get(command, EXTRA))


def _print_completion(arguments: list[str]) -> int:
    """A script by which a shell completes commands, options and names of files."""
    parser = Parser(prog=f"liveditor {COMPLETION}", description="Print a script by which a shell completes this command line.")
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shell = parser.parse_args(arguments).shell
    try:
        shtab = needed("shtab", "shtab", EXTRA)
    except RuntimeError as error:
        return reported(COMPLETION, error, False).status
    whole = general_parser()
    commands = whole.add_subparsers()
    for name, (_, what) in COMMANDS.items():
        add_command(name, commands.add_parser(name, help=what))
    print(shtab.complete(whole, shell=shell))
    return Status.DONE
