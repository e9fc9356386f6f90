"""Thresholds that cost as much as a ratio."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.command import main
from liveditor_isa.pipelines.calibration import RUNS, TOLERANCE, threshold_for


@given(st.floats(1e-5, 0.3), st.floats(0.05, 0.95), st.floats(0.3, 2))
def test_the_threshold_is_found_from_afar(middle, wanted, slope):
    """Of densities that fall as it grows, from all to nothing, over decades."""
    asked = []

    def density(threshold: float) -> float:
        asked.append(threshold)
        return 1 / (1 + (threshold / middle) ** slope)

    found = threshold_for(density, wanted, guess=0.01)
    assert len(asked) < RUNS and found in asked
    assert abs(density(found) - wanted) <= 1.5 * TOLERANCE * wanted


def test_the_nearest_is_taken_where_none_is_near():
    """A density that jumps, as where many blocks are alike."""
    found = threshold_for(lambda threshold: 0.9 if threshold < 0.02 else 0.5, 0.6, guess=0.01)
    assert 0.02 <= found <= 0.0801


@pytest.fixture
def clips(tmp_path, sample_video):
    (tmp_path / "bunny.mp4").write_bytes(sample_video.read_bytes())
    row = {"video": "bunny.mp4", "prompt": "Make it night", "frames": 5, "width": 96, "height": 96, "steps": 2}
    rows = [row, {**row, "id": "later", "start_frame": 20, "prompt": "Turn the video into a cartoon"}]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "clips.jsonl"


TINY = ["--min-tokens", "0", "--block-size", "8", "--context-refresh", "0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--policy", "error_aware", "--exact-ratio", "0.28", "--keep-ratio", "1"], "error_threshold"),
        (["--dense-query-ratio", "0.5"], "sharpness_threshold"),
    ],
)
def test_a_threshold_costs_as_much_as_the_ratio(clips, capsys, options, name):
    assert main(["calibrate", str(clips), *options, *TINY, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["density"] == pytest.approx(found["wanted_density"], rel=0.05) and 2 < found["runs"] <= RUNS
    # An edit by it attends to that much.
    assert set(found["densities"]) == {"bunny", "later"}
    policy = [option for option in options[:2] if name == "error_threshold"]
    threshold = [f"--{name.replace('_', '-')}", str(found[name])]
    keep = ["--keep-ratio", "1"] if policy else []
    edit = [
        "edit",
        str(clips.parent / "bunny.mp4"),
        "Make it night",
        "--frames",
        "5",
        "--size",
        "96x96",
        "--steps",
        "2",
        *TINY,
        *policy,
        *keep,
        *threshold,
    ]
    assert main([*edit, "--json", "--quiet"]) == 0
    [said] = re.findall(r"at ([\d.]+)% density", "\n".join(json.loads(capsys.readouterr().out)["isa"]))
    assert float(said) / 100 == pytest.approx(found["densities"]["bunny"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--policy", "segment_top_k"], "segment_top_k has no threshold: take error_aware or isa"),
        (["--policy", "error_aware", "--error-threshold", "0.1"], "error_threshold is what is looked for: leave it out, and give exact_ratio"),
        (["--dense-query-ratio", "1"], "dense_query_ratio 1 needs no threshold"),
        (["--no-isa"], "nothing to calibrate"),
    ],
)  # fmt: skip
def test_what_has_no_threshold_is_refused(clips, capsys, options, sentence):
    assert main(["calibrate", str(clips), *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_clips_on_which_isa_does_not_act_are_refused(clips, capsys):
    assert main(["calibrate", str(clips), "--quiet"]) == 2
    assert "ISA did not act on" in (said := capsys.readouterr().err) and "fewer than min_tokens 12288" in said
