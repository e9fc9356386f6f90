"""`liveditor serve` as a command: what it refuses before it loads anything, and an edit by the included model."""

import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from edit_server import ended, send, write_clip  # noqa: E402
from liveditor_isa.command import main  # noqa: E402
from liveditor_isa.pipelines.record import recorded_in  # noqa: E402


def refused(capsys, *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    words = capsys.readouterr().err
    assert words.startswith("liveditor serve: ") and words.count("\n") == 1
    return words


def test_what_cannot_be_served_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "There is no model missing" in refused(capsys, "--model", "missing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1:{port}" in refused(capsys, "--port", port, "--no-page")
    (tmp_path / "file").touch()
    assert "cannot hold jobs" in refused(capsys, "--port", "0", "--jobs", "file", "--no-page")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "fastapi" in refused(capsys) and "pip install" in refused(capsys)


def test_a_wrong_port_or_limit_is_refused(capsys):
    for option, value in (("--port", "99999"), ("--max-frames", "0"), ("--max-size", "100x100")):
        with pytest.raises(SystemExit):
            main(["serve", option, value])
        words = capsys.readouterr().err
        assert option in words and words.count("\n") == 1


@pytest.mark.long
def test_the_included_model_edits_and_sigterm_ends_the_server(tmp_path):
    import httpx

    command = [sys.executable, "-m", "liveditor_isa", "serve", "--port", "0", "--jobs", str(tmp_path / "jobs"), "--no-page"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", cwd=tmp_path)
    try:
        said = [server.stdout.readline(), server.stdout.readline()]
        assert said[0] == "LIVEditor-tiny is being loaded\n"
        reader = threading.Thread(target=lambda: said.extend(server.stdout))
        reader.start()
        with httpx.Client(base_url=re.search(r"http://\S+(?=;)", said[1])[0], timeout=60, trust_env=False) as client:
            clip = write_clip(tmp_path / "holiday.mp4")
            made = send(client, clip, "Make it night", size="64x48", steps=2)
            done = ended(client, made.json()["id"])
            assert done["status"] == "completed" and done["facts"]["steps"] == 2, done
            content = client.get(f"/v1/videos/{done['id']}/content").content
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 130
        reader.join()
    finally:
        server.kill()
    (tmp_path / "edited.mp4").write_bytes(content)
    recorded = recorded_in(tmp_path / "edited.mp4")
    assert (recorded["prompt"], recorded["steps"], recorded["video"]) == ("Make it night", 2, "video.mp4")
    assert not [line for line in said if "leaked" in line or "Traceback" in line], said
