"""The examples run, or are what the programs that they are for take. And what is built of this project: image and API reference."""

import ast
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from comfy_headless import ROOT
from liveditor_isa import command
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11; pytest brings it there
    import tomli as tomllib

EXAMPLES = ROOT / "examples"


def parsed(words: list[str]):
    """The options of a command line of `liveditor`; raises WrongOption or SystemExit for others."""
    parser = command.Parser(prog="liveditor", exit_on_error=False)
    command.add_command(words[0], parser)
    return parser.parse_args(words[1:])


def loaded(name: str):
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))


def command_lines(text: str) -> list[list[str]]:
    lines = re.findall(r"^#?\s*liveditor ((?:batch|edit) .*)$", text, re.M)
    return [shlex.split(line.rstrip(" &").replace('"$@"', "")) for line in lines]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a video, and `liveditor` on the PATH."""
    from edit_server import write_clip

    write_clip(tmp_path / "holiday.mp4", 9)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/liveditor"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m liveditor_isa "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(script.parent), str(ROOT / ".venv/bin"), os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed():
    listed = re.findall(r"^\| \[(.+?)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert {*listed} >= {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".yaml", ".ipynb")}
    assert [name for name in listed if not (EXAMPLES / name).is_file()] == []


@pytest.mark.parametrize("name", ["batch.sh", "slurm.sh"])
def test_scripts_are_of_bash_and_call_what_there_is(name):
    subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)
    lines = command_lines((EXAMPLES / name).read_text(encoding="utf-8"))
    assert [parsed(line).manifest for line in lines]
    with pytest.raises(command.WrongOption):
        parsed(["batch", "a.jsonl", "--out", "b", "--no-such-option"])


def test_kubernetes_job():
    job = loaded("kubernetes.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert parsed(container["args"]).model == "/data/LIVEditor-14B"
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_ray_takes_its_cluster():
    util = pytest.importorskip("ray.autoscaler._private.util")
    pytest.importorskip("jsonschema")
    cluster = loaded("ray_cluster.yaml")
    util.validate_config(util.prepare_config(cluster))
    with pytest.raises(Exception, match="no_such"):
        util.validate_config(util.prepare_config(cluster | {"no_such": 1}))
    (line,) = command_lines((EXAMPLES / "ray_cluster.yaml").read_text(encoding="utf-8"))
    assert parsed(line).address == "auto"


def cells(kind: str) -> list[str]:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and not [cell for cell in notebook["cells"] if cell.get("outputs")]
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_python():
    assert len([ast.parse(code) for code in cells("code")]) == 3 and cells("markdown")


@pytest.mark.long
def test_the_notebook_runs(place):
    (place / "cells.py").write_text("\n".join(cells("code")), encoding="utf-8")
    shown = run(sys.executable, "cells.py")
    assert shown.startswith("ISA: ") and 0 < float(re.search(r"pictures: (\S+)", shown)[1]) < 0.5


@pytest.mark.long
def test_editing_examples_run(place):
    shown = run(sys.executable, str(EXAMPLES / "edit.py"), "Make it night", "missing.mp4", "holiday.mp4")
    assert shown.startswith("holiday_edited.mp4: 9 frames")
    run("bash", str(EXAMPLES / "batch.sh"), ".", "Make it night", "edited", "--dry-run")
    run("bash", str(EXAMPLES / "batch.sh"), ".", "Make it night", "edited")
    assert {path.name for path in (place / "edited").glob("*.mp4")} == {"holiday.mp4", "holiday_edited.mp4"}


def test_the_client_runs_against_a_server(place):
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    from edit_server import serving
    from liveditor_isa.serve.uploads import Limits

    with serving(place / "jobs", limits=Limits()) as (client, engine):
        arguments = [str(client.base_url).rstrip("/"), "holiday.mp4", "at once"]
        assert run(sys.executable, str(EXAMPLES / "client.py"), *arguments, "night.mp4") == "night.mp4\n"
        assert (place / "night.mp4").stat().st_size and not engine.of("")
        here = arguments[0]
        for url, video, prompt, words in (
            (here, "holiday.mp4", " ", "The prompt is empty"),
            (here, "missing.mp4", "at once", "No such file"),
            ("http://127.0.0.1:1", "holiday.mp4", "at once", "refused"),
        ):
            refused = [sys.executable, str(EXAMPLES / "client.py"), url, video, prompt, "refused.mp4"]
            said = subprocess.run(refused, capture_output=True, encoding="utf-8").stderr
            assert words in said and said.count("\n") == 1 and not (place / "refused.mp4").exists()


def test_the_image_installs_what_is_pinned():
    """Every package that its extras name has a version, which the extras allow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [
        Requirement(line) for line in [*project["dependencies"], *extras["diffusers"], *extras["batch"], *extras["serve"]]
    ]
    lines = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = [each for each in needed if each.name != "liveditor-isa" and (not each.marker or each.marker.evaluate())]
    assert not [each for each in asked if not each.specifier.contains(pinned[each.name])]
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    version = project["version"]
    assert {*re.findall(r"liveditor-isa:([\d.]+)", image + (EXAMPLES / "kubernetes.yaml").read_text())} == {version}
    for line in re.findall(r"liveditor-isa:[\d.]+ ((?:edit|serve) .*)$", image, re.M):
        assert parsed(shlex.split(line))
    for source in re.findall(r"^COPY (\S+) ", image, re.M):
        assert (ROOT / source).exists()


REFERENCE = re.search(r"pdoc.* -o \S+ (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1].split()


@pytest.mark.parametrize("name", REFERENCE)
def test_what_the_reference_shows_has_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__
    shown = {public: getattr(module, public) for public in getattr(module, "__all__", ())}
    assert not [public for public, it in shown.items() if (inspect.isclass(it) or inspect.isfunction(it)) and not it.__doc__]


@pytest.mark.long
def test_the_reference_is_built(tmp_path):
    pytest.importorskip("pdoc", reason="make api installs it")
    run(sys.executable, "-m", "pdoc", "-o", str(tmp_path), *REFERENCE)
    page = (tmp_path / "liveditor_isa/pipelines.html").read_text(encoding="utf-8")
    assert "edit_file" in page and "appears under its name only when it is whole" in page
