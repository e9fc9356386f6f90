"""Every code block and command of the documentation runs as printed, or is marked with what CI lacks for it.

python -m pytest tests/test_documentation.py -rP -m "long or not long"      lists what ran and what is marked
"""

import argparse
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from comfy_headless import ROOT
from documentation import LACKING, PAGES, RUN, SHOWN, blocks_of, commands_in, write_files_of_a_reader
from liveditor_isa.batch.manifest import read_manifest
from liveditor_isa.command import COMMANDS, add_command, main
from liveditor_isa.command.config import arguments_from
from liveditor_isa.training.editor.recipe import read_recipe
from run_blocks import run_all

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module")
def files(models, sample_video, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_files_of_a_reader(folder, models, sample_video)
    return folder


@pytest.fixture
def place(files, tmp_path, monkeypatch) -> Path:
    """A folder with these, in which a page's blocks run one after the other."""
    shutil.copytree(files, tmp_path / "place")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/liveditor"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m liveditor_isa "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def run_page(blocks):
    """In order, each as it stands, but for those that are only shown."""
    for block in blocks:
        print(block, flush=True)
    run_all([(block.name, block.language, block.source) for block in blocks if block.runs or block.language == "jsonl"])


def test_every_block_says_what_it_is_and_every_mark_why():
    for block in BLOCKS:
        print(block)
        assert block.language in RUN + SHOWN, f"{block.name}: a block names its language, one of {', '.join(RUN + SHOWN)}"
        assert block.lacks is None or block.lacks.startswith(LACKING), f"{block.name}: CI lacks none of {LACKING}"
        assert re.fullmatch(r"|not run: \S.*|long|(long, )?after:\s.*", block.mark, re.S), f"{block.name}: {block.mark}"
    ran = [block for block in BLOCKS if block.runs]
    assert len(ran) > 10 and {block.language for block in ran} == {*RUN}
    # As many fences as blocks: none hides within another.
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(BLOCKS)


def pages(blocks):
    """The blocks by page, as parameters."""
    grouped = {page: [block for block in blocks if block.page == page] for page in PAGES}
    return [
        pytest.param(found, id=str(page.relative_to(ROOT)))
        for page, found in grouped.items()
        if any(block.runs for block in found)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("blocks", pages([block for block in BLOCKS if not block.is_long]))
def test_blocks_run(blocks, place):
    run_page([block for block in blocks if block.runs])


@pytest.mark.long
@pytest.mark.parametrize("blocks", pages([block for block in BLOCKS if block.is_long or block.language == "jsonl"]))
def test_long_blocks_run(blocks, place):
    run_page(blocks)


def test_a_block_that_does_not_run_fails(place):
    for code in ("cat missing.mp4", "no-such-command\ntrue"):
        broken = type(BLOCKS[0])(ROOT / "README.md", 1, "sh", "", code)
        with pytest.raises(AssertionError, match="ends with status"):
            run_page([broken])
    with pytest.raises(NameError):
        run_page([type(BLOCKS[0])(ROOT / "README.md", 1, "python", "", "undefined")])


def test_manifests_are_ones(tmp_path):
    manifests = [block for block in BLOCKS if block.language == "jsonl"]
    for block in manifests:
        (tmp_path / "clips.jsonl").write_text(block.code, encoding="utf-8")
        assert len(read_manifest(tmp_path / "clips.jsonl")) == len(block.code.splitlines())
    assert manifests


def test_files_of_options_are_ones(tmp_path):
    tables = [block for block in BLOCKS if block.language == "toml" and "[[stage]]" not in block.code]
    for block in tables:
        (tmp_path / "options.toml").write_text(block.code, encoding="utf-8")
        for command in COMMANDS:
            add_command(command, parser := argparse.ArgumentParser())
            arguments_from(tmp_path / "options.toml", command, [*COMMANDS], parser)
    assert tables


def test_recipes_of_training_are_ones(tmp_path):
    recipes = [block for block in BLOCKS if block.language == "toml" and "[[stage]]" in block.code]
    for block in recipes:
        (tmp_path / "recipe.toml").write_text(block.code, encoding="utf-8")
        assert read_recipe(tmp_path / "recipe.toml").stage
    assert recipes


PRINTED = [(page, words) for page in PAGES for words in commands_in(page)]


@pytest.mark.parametrize("page, words", PRINTED, ids=[f"{page.name}: {' '.join(words)[:60]}" for page, words in PRINTED])
def test_commands_that_nothing_runs_are_ones(page, words, capsys):
    """Its options are the parser's; modules, scripts and targets of make exist."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert {word for word in words[1:] if "=" not in word and word != "…"} <= {*targets}
    elif words[0] == "liveditor":
        check_options(words[1:], capsys)
    elif len(words) == 1:
        assert shutil.which(words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    elif any(word.endswith(".py") for word in words):
        assert (ROOT / next(word for word in words if word.endswith(".py"))).is_file()
    else:
        module = words[words.index("-m") + 1]
        assert module.endswith("…") or importlib.util.find_spec(module), module
        if module == "liveditor_isa":
            check_options(words[words.index("-m") + 2 :], capsys)


def check_options(command: list[str], capsys):
    """The command, its step where it has some, and its options are known to its own help."""
    steps = 2 if command[:1] in (["data"], ["evaluate"]) else 1
    names = [word for word in command if not word.startswith(("-", "…"))][:steps]
    with pytest.raises(SystemExit):
        main([*names, "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) | {"--version", "--debug"}
    assert {word.split("=")[0] for word in command if word.startswith("--")} <= known
