"""What scripts and shells need of the command line: JSON, silence, exit statuses, a file of options, completion."""

import json
import subprocess
from fractions import Fraction

import pytest
import torch
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.command import COMMANDS, convert, main
from liveditor_isa.command.outcome import Outcome, Status
from liveditor_isa.video.mp4 import write_mp4
from safetensors.torch import load_file

BENCHMARK = ["benchmark", "--size", "64x48", "--frames", "5", "--heads", "1", "--turns", "1", "--device", "cpu"]


def written(folder, text: str):
    path = folder / "options.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_json_is_one_object_and_nothing_else_is_on_stdout(tmp_path, capsys):
    target, tensors = tmp_path / "copy.safetensors", len(load_file(path_of("diffusion_model")))
    assert main(["convert", path_of("diffusion_model"), str(target), "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert shown.out.count("\n") == 1 and f"{tensors} tensors" in shown.err
    assert (found["command"], found["status"], found["output"], found["tensors"]) == ("convert", 0, str(target), tensors)
    assert main([*BENCHMARK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["speed_up"] == found["full_attention_seconds"] / found["isa_seconds"] and found["tokens"] == 48


def test_quiet_shows_errors_alone(tmp_path, capsys):
    arguments = ["convert", path_of("diffusion_model"), str(tmp_path / "copy.safetensors"), "--quiet"]
    assert main(arguments) == 0 and capsys.readouterr() == ("", "")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "exists already" in shown.err and shown.err.count("\n") == 1
    assert main([*BENCHMARK, "--quiet", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and json.loads(shown.out)["status"] == 0


@pytest.mark.parametrize(
    "arguments", [["convert", "missing.bin"], ["edit", "missing.mp4", "night"], ["batch", "no.jsonl", "--out", "x"]]
)
def test_a_failure_is_an_object_too(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json"]) == Status.FAILED == 2
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["command"], found["status"]) == (arguments[0], 2) and found["error"] in shown.err


def test_a_wrong_option_is_an_object_too(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["edit", "a.mp4", "night", "--no-such-option", "--json"])
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert ended.value.code == found["status"] == 2 and "--no-such-option" in found["error"] and shown.err.count("\n") == 1


def test_a_dry_run_lists_faults_as_an_object(tmp_path, capsys):
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"video": "no.mp4", "prompt": "night"}\n', encoding="utf-8")
    arguments = ["batch", str(manifest), "--out", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(arguments) == Status.PARTLY == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["pending"], found["done"]) == (1, 1, 0) and "There is no file" in found["faults"][0]
    manifest.write_text('{"video": "no.mp4"}\n{"prompt": "night"}\n', encoding="utf-8")
    assert main(arguments) == 2
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 2


def test_a_dry_run_finds_regions_in_which_nothing_would_show(tmp_path, capsys):
    write_mp4(tmp_path / "beach.mp4", [torch.zeros(2, 48, 64, 3)], Fraction(8))
    write_mp4(tmp_path / "black.mp4", [torch.zeros(1, 48, 64, 3)], Fraction(8))
    rows = [{"boxes": ["500,0,9,9"]}, {"mask": "black.mp4"}, {"boxes": ["8,8,16,16"]}]
    lines = [json.dumps({"video": "beach.mp4", "prompt": "night", "id": str(number)} | row) for number, row in enumerate(rows)]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert (
        main(["batch", str(tmp_path / "clips.jsonl"), "--out", str(tmp_path / "out"), "--dry-run", "--json"]) == Status.PARTLY
    )
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault.split(":")[0] for fault in faults] == ["line 1, 0", "line 2, 1"] and all(
        "nothing of the edit" in fault for fault in faults
    )


def test_ctrl_c_has_a_status_of_its_own(monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "run", stop)
    assert main(["convert", "a.bin", "--json"]) == Status.STOPPED == 130
    assert json.loads(capsys.readouterr().out)["status"] == 130


def test_statuses_are_documented_where_users_look(capsys):
    for arguments in (["--help"], ["batch", "--help"], ["evaluate", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        shown = " ".join(capsys.readouterr().out.split())
        assert all(
            f"{int(status)} {word}" in shown for status, word in zip(Status, ("done", "partly done", "failed", "stopped"))
        )


def test_a_file_gives_options_and_the_command_line_goes_before(tmp_path, capsys):
    config = written(
        tmp_path,
        '[benchmark]\nsize = "64x48"\nframes = 5\nheads = 1\nturns = 1\ndevice = "cpu"\njson = true\n[edit]\nisa = false\n',
    )
    assert main(["benchmark", "--config", config, "--frames", "9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["frames"], found["heads"]) == (64, 48, 9, 1)


def test_a_file_may_turn_off_and_list(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("liveditor_isa.command.edit.run", lambda options: seen.update(vars(options)) or Outcome(0, {}))
    config = written(
        tmp_path,
        '[edit]\nisa = false\nmatch_colors = true\nwhole_frame = false\nlora = ["a", "b"]\nbox = ["1,2,3,4"]\nguidance = -1\n',
    )
    assert main(["edit", "a.mp4", "night", "--config", config]) == 0
    assert (seen["isa"], seen["match_colors"], seen["whole_frame"], seen["lora"]) == (False, True, False, ["a", "b"])
    assert (seen["box"], seen["guidance"]) == ([(1, 2, 3, 4)], -1)


@pytest.mark.parametrize(
    "text, told",
    [
        ("[edit", "is not TOML ("),
        ("seed = 1", f"'seed' is no table of a command; there are {', '.join(f'[{name}]' for name in COMMANDS)}"),
        ("[paint]", "'paint' is no table of a command"),
        ("[edit]\npaint = 1", "[edit]: there is no option 'paint'"),
        ("[edit]\nwhole_frame = 1", "whole_frame must be true or false; got 1"),
        ("[edit]\nseed = 'x'", "argument --seed: invalid int value: 'x'"),
    ],
)
def test_a_file_with_something_else_is_refused(text, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["edit", "a.mp4", "night", "--config", written(tmp_path, text)])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and told in shown and shown.count("\n") == 1


def test_a_missing_file_is_told(capsys):
    for arguments, told in ((["--config", "no.toml"], "no.toml cannot be read"), (["--config"], "expected one argument")):
        with pytest.raises(SystemExit):
            main(["edit", "a.mp4", "night", *arguments])
        assert told in capsys.readouterr().err


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(words)
    ask = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; _shtab_liveditor; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, encoding="utf-8")
    return done.stdout.split()


def test_bash_completes_commands_and_options(capsys):
    pytest.importorskip("shtab", reason="the diffusers extra is not installed")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert {*COMMANDS} <= {*completed(script, "liveditor", "''")}
    assert completed(script, "liveditor", "edit", "--window-o") == ["--window-overlap"]
    assert {"--json", "--quiet", "--config"} <= {*completed(script, "liveditor", "convert", "--")}
    assert main(["completion", "zsh"]) == 0 and "#compdef liveditor" in capsys.readouterr().out


def test_without_shtab_completion_names_it(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "shtab" in capsys.readouterr().err


def test_steps_of_a_command_have_these_options_too(tmp_path, capsys):
    assert main(["evaluate", "metrics", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert every["command"] == "evaluate" and "psnr_source" in every["metrics"]
    assert main(["evaluate", "metrics", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    options = written(tmp_path, "[evaluate.score]\noffline = true\n")
    assert main(["evaluate", "score", str(tmp_path / "none.jsonl"), "--run", str(tmp_path), "--config", options, "--json"]) == 2
    assert "cannot be read" in json.loads(capsys.readouterr().out)["error"]
    loose = written(tmp_path, "[evaluate]\noffline = true\n")
    with pytest.raises(SystemExit):
        main(["evaluate", "score", "x", "--run", "y", "--config", loose])
    assert "'offline' belongs into the table of a step, such as [evaluate.score]" in capsys.readouterr().err
