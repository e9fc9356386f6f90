"""`liveditor edit --repeat` and `--config`: which of several values counts, and what is said of a record that is none."""

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from liveditor_isa.command import Parser, main
from liveditor_isa.command import edit as edit_command
from liveditor_isa.command.outcome import Outcome
from liveditor_isa.pipelines.record import TAG, record_of, recorded_in
from liveditor_isa.pipelines.request import Edit, ModelChoice
from liveditor_isa.video.mp4 import write_mp4
from liveditor_isa.video.writing.encode import write_video
from liveditor_isa.video.writing.formats import format_of

RECORD = {"video": "beach.mp4", "prompt": "p", "seed": 7, "boxes": [[1, 2, 3, 4]], "references": ["hat.png"]}
CHOICE = asdict(ModelChoice())


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """The options that `edit` runs with, given arguments, beside x.mp4 that holds a record."""
    seen = {}
    monkeypatch.setattr("liveditor_isa.command.edit.run", lambda options: seen.update(vars(options)) or Outcome(0, {}))
    (tmp_path / "options.toml").write_text('[edit]\nseed = 42\nlora = ["a", "b"]\nreference = ["ring.png"]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run_of(record: dict, *arguments: str) -> dict:
        write_mp4("x.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
        return seen if main(["edit", *arguments]) == 0 else {}

    return run_of


@pytest.mark.parametrize(
    "arguments, seed, boxes",
    [
        ("--repeat x.mp4", 7, [(1, 2, 3, 4)]),
        ("--seed 42 --repeat x.mp4 --box 5,6,7,8", 42, [(5, 6, 7, 8)]),
        ("--box 5,6,7,8 --box 1,1,1,1 --repeat x.mp4 --seed 42", 42, [(5, 6, 7, 8), (1, 1, 1, 1)]),
        ("--config options.toml --repeat x.mp4", 42, [(1, 2, 3, 4)]),
    ],
)
def test_what_is_given_beside_a_record_replaces_it(arguments, seed, boxes, run_of):
    """In any order, also where it is the option's default; one of a list replaces the whole list."""
    options = run_of(RECORD | {"model": CHOICE}, *arguments.split())
    assert (options["seed"], options["box"], str(options["video"])) == (seed, boxes, "beach.mp4")


def test_what_is_given_beside_a_file_of_options_replaces_its_list(run_of):
    options = run_of({}, "a.mp4", "p", "--config", "options.toml", "--lora", "c")
    assert (options["lora"], options["reference"]) == (["c"], ["ring.png"])


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"prompt": None}, "x.mp4 records something else than an edit ("),
        ({"steps": "two"}, "x.mp4 records something else than an edit ("),
        ({"model": CHOICE | {"dtype": "fp12"}}, "x.mp4 records the dtype 'fp12', but there are auto, bf16, fp16, fp32."),
        ({"boxes": "1,2,3,4"}, "a box is x,y,width,height"),
        ({"seed": -1}, "seed must be from 0 to"),
    ],
)
def test_a_record_that_somebody_changed_is_told_in_one_line(changed, told, run_of, capsys):
    with pytest.raises(SystemExit):
        run_of(RECORD | {"model": CHOICE} | changed, "--repeat", "x.mp4")
    shown = capsys.readouterr().err
    assert shown.startswith("liveditor edit: ") and told in shown and shown.count("\n") == 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of files, which is the present one."""
    for name in ("clips/beach.mp4", "clips/mask.png", "hat.png", "out/hat.mp4", "models/vae.safetensors", "lora.safetensors"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).touch()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_a_record_names_files_as_seen_from_its_own(project, tmp_path, monkeypatch):
    """So that they are found from another folder, and where all is moved."""
    edit = Edit("clips/beach.mp4", "p", references=("hat.png",), mask="clips/mask.png")
    choice = ModelChoice("models", vae="models/vae.safetensors", loras=("lora.safetensors",))
    record = json.loads(json.dumps(record_of(edit, choice, Path("out"))))
    assert (record["video"], record["references"], record["mask"]) == (
        "../clips/beach.mp4",
        ["../hat.png"],
        "../clips/mask.png",
    )
    model = record["model"]
    assert (model["model"], model["vae"], model["loras"]) == ("../models", "../models/vae.safetensors", ["../lora.safetensors"])
    write_mp4("out/edited.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
    moved = project.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    seen = {}
    monkeypatch.setattr("liveditor_isa.command.edit.run", lambda options: seen.update(vars(options)) or Outcome(0, {}))
    assert main(["edit", "--repeat", "../moved/out/edited.mp4"]) == 0
    assert Path(seen["video"]).samefile(moved / "clips/beach.mp4") and Path(seen["model"]).samefile(moved / "models")
    for name, file in {"reference": "hat.png", "lora": "lora.safetensors"}.items():
        assert [Path(path).resolve() for path in seen[name]] == [moved / file]
    for name, file in {"mask": "clips/mask.png", "vae": "models/vae.safetensors"}.items():
        assert Path(seen[name]).samefile(moved / file)


def test_a_result_of_its_videos_name_elsewhere_is_not_edited_in_its_place(project, tmp_path, monkeypatch):
    """`edit beach.mp4 … --out ../edited/beach.mp4`: the record may not name the folder between the two."""
    (tmp_path / "edited").mkdir()
    monkeypatch.chdir(project / "clips")
    record = record_of(Edit("beach.mp4", "p"), ModelChoice(), tmp_path / "edited")
    assert record["video"] == "beach.mp4" and record["as_given"] == ["beach.mp4"]
    file = tmp_path / "edited/beach.mp4"
    for number, told in enumerate((record, {name: value for name, value in record.items() if name != "as_given"})):
        file.unlink(missing_ok=True)
        write_mp4(file, [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(told)})
        own = Parser()
        edit_command.add_arguments(own)
        seen = edit_command.recorded(file, own)
        assert (seen["video"], seen["elsewhere"]) == (Path("beach.mp4"), ["beach.mp4"]), number


def test_what_is_repeated_by_its_whole_path_records_no_more_than_before(project):
    record = record_of(Edit("clips/beach.mp4", "p"), ModelChoice(), Path("out"))
    Path("out").mkdir(exist_ok=True)
    write_mp4("out/edited.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
    own = Parser()
    edit_command.add_arguments(own)
    found = edit_command.recorded(project / "out/edited.mp4", own)["video"]
    assert found == Path("clips/beach.mp4")
    assert record_of(Edit(str(found), "p"), ModelChoice(), Path("out")) == record


def test_a_record_sets_no_other_option(project):
    record = json.loads(json.dumps(record_of(Edit("hat.png", "p"), ModelChoice(), Path("out"))))
    record["model"]["out"] = "/somewhere/x.mp4"
    write_mp4("edited.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
    own = Parser()
    edit_command.add_arguments(own)
    with pytest.raises(ValueError, match="edited.mp4 records something else than an edit .'out'"):
        edit_command.recorded(Path("edited.mp4"), own)


@pytest.mark.parametrize("name", ["pictures", "x.mov", "x.webm"])
def test_a_record_is_in_every_format_but_gif(name, project):
    for path in (Path(name), Path("x.gif")):
        write_video(
            path, [torch.zeros(2, 32, 32, 3)], Fraction(8), format_of(path), metadata={TAG: json.dumps({"model": CHOICE})}
        )
    for path in (Path(name), Path(name, "00001.png"))[: 1 + Path(name).is_dir()]:
        assert recorded_in(path)["model"] == json.loads(json.dumps(CHOICE))
    with pytest.raises(ValueError, match="x.gif does not say how it was made: .*, of another format than GIF"):
        recorded_in("x.gif")


def test_a_record_tells_no_folder_that_it_was_not_told(project, tmp_path):
    """Above the present folder, that is; what is given with its whole path stays so, and the included model's name is no path."""
    (project / "tiny").mkdir()

    def recorded(video: str, folder: Path) -> str:
        return record_of(Edit(video, "p"), ModelChoice(), folder)["video"]

    assert recorded("hat.png", tmp_path) == "hat.png" and recorded("../project/hat.png", tmp_path) == "project/hat.png"
    assert recorded("missing.mp4", Path("out")) == "missing.mp4"
    assert recorded(str(project / "hat.png"), Path("out")) == str(project / "hat.png")
    (tmp_path / "large disk").mkdir()
    (project / "link").symlink_to(tmp_path / "large disk")
    assert recorded("hat.png", project / "link") == "hat.png", "../hat.png would be another file's name there"
    assert record_of(Edit("hat.png", "p"), ModelChoice(), Path("out"))["model"]["model"] == "tiny"


@pytest.mark.parametrize(
    "changed, beside, told",
    [
        ({"video": "gone.mp4"}, "", "made with gone.mp4, which is not there: name the video anew, behind --repeat FILE."),
        ({"video": "gone.mp4"}, "hat.png --mask no.png", "There is no file no.png: check the name."),
        (
            {"references": ["hat.png", "no.png"]},
            "",
            "made with no.png, which is not there: name all references anew with --reference.",
        ),
        ({"references": ["no.png"]}, "--reference hat.png", None),
        ({"mask": "/no.png"}, "", "made with /no.png, which is not there: name the mask anew with --mask."),
        ({"model": CHOICE | {"model": "no"}}, "", "made with no, which is not there: name the model anew with --model."),
        ({"model": CHOICE | {"loras": ["no"]}}, "", "made with no, which is not there: name all LoRAs anew with --lora."),
        ({"model": CHOICE | {"model": "hat.png", "text_encoder": "no", "vae": "no"}}, "--model tiny", None),
        ({"model": CHOICE | {"model": "models", "text_encoder": None, "vae": "no"}}, "--model clips", None),
        ({"model": CHOICE | {"model": "models", "text_encoder": None, "vae": "no"}}, "--vae hat.png", None),
        (
            {"model": CHOICE | {"model": "models", "vae": "no"}},
            "--lora hat.png",
            "made with no, which is not there: name it anew with",
        ),
        ({"window": 9, "window_overlap": 4}, "--window 0", None),
        ({"window": 9, "window_overlap": 4}, "--window 0 --window-overlap 5", "window_overlap belongs to windows"),
        ({}, "--no-isa --keep-ratio 0.5", "which --no-isa turns off"),
    ],
)
def test_a_recorded_file_that_is_missing_is_named_with_its_option(changed, beside, told, project, monkeypatch, capsys):
    """And what was recorded for a model, windows or ISA does not stand in the way of others."""
    record = {"video": "clips/beach.mp4", "prompt": "p", "model": CHOICE} | changed
    write_mp4("x.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})

    def stop(*_):
        raise ValueError("all is there")

    monkeypatch.setattr("liveditor_isa.command.edit.require", stop)
    assert main(["edit", "--repeat", "x.mp4", *beside.split()]) == 2
    shown = capsys.readouterr().err
    assert (told or "all is there") in shown and shown.count("\n") == 1


def test_a_file_of_that_name_in_the_present_folder_is_not_taken_in_silence(project, monkeypatch, caplog):
    """As for a file whose record names others as seen from where the command ran."""
    record = {"video": "hat.png", "prompt": "p", "model": CHOICE}
    write_mp4("out/x.mp4", [torch.zeros(1, 32, 32, 3)], Fraction(8), metadata={TAG: json.dumps(record)})
    monkeypatch.setattr("liveditor_isa.command.edit.require", lambda *_: (_ for _ in ()).throw(ValueError))
    main(["edit", "--repeat", "out/x.mp4"])
    assert caplog.messages == ["x.mp4 records hat.png, which is not there as seen from that file: this folder's is taken."]
