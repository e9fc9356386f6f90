"""The server over real HTTP: many clients, what they cancel, what they send wrong, and a worker that is killed."""

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import httpx  # noqa: E402
from edit_server import LIMITS, ended, send, serving, status_of, write_clip  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.serve.engine import Engine, ModelGone  # noqa: E402
from liveditor_isa.serve.jobs import Jobs, JobsError  # noqa: E402
from liveditor_isa.video.clip import open_clip  # noqa: E402
from liveditor_isa.video.source import FileSource  # noqa: E402
from waiting import until  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "holiday.mp4")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A client and the engine; jobs of a test do not meet another's."""
    with serving(tmp_path_factory.mktemp("server") / "jobs") as running:
        yield running


def folders(engine) -> set[str]:
    return {path.name for path in engine.jobs.folder.glob("video_*")}


def words_of(answer: httpx.Response) -> str:
    """The sentence of an error."""
    error = answer.json()["error"]
    assert error["code"] == answer.status_code and "\n" not in error["message"]
    return error["message"]


def test_an_edit_from_request_to_file(server, clip, tmp_path):
    client, engine = server
    made = send(client, clip, "slowly 0.6", seed=7, size="64x48").json()
    assert made["object"] == "video" and made["status"] in ("queued", "in_progress") and made["model"] == "stand-in"
    seen = set()
    until(lambda: seen.add(status_of(client, made["id"])["progress"]) or len(seen) > 3 or 100 in seen, every=0.02)
    assert any(0 < progress < 100 for progress in seen)
    done = ended(client, made["id"])
    assert (done["status"], done["progress"], done["error"], done["attempts"]) == ("completed", 100, None, 1)
    assert done["facts"]["frames"] == 5 and done["completed_at"] >= done["created_at"]
    content = client.get(f"/v1/videos/{made['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    (tmp_path / "edited.mp4").write_bytes(content.content)
    assert open_clip(FileSource(tmp_path / "edited.mp4"), 0, 0).frames == 5
    kept = json.loads((engine.jobs.of(made["id"]) / "job.json").read_text(encoding="utf-8"))["edit"]
    assert (kept["seed"], kept["size"], kept["frames"], kept["video"]) == (7, [64, 48], 0, "video.mp4")
    assert client.delete(f"/v1/videos/{made['id']}").json()["deleted"] is True
    assert client.get(f"/v1/videos/{made['id']}/content").status_code == 404 and made["id"] not in folders(engine)


def test_twenty_clients_at_once_each_get_their_own(server, tmp_path):
    client, engine = server

    def whole(number: int) -> int:
        clip, token = write_clip(tmp_path / f"{number}.mp4", 1 + number % 8), f"client {number}"
        with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
            made = send(own, clip, "at once", token)
            assert made.status_code == 200, made.text
            done = ended(own, made.json()["id"], token)
            assert done["status"] == "completed", done
            headers = {"Authorization": f"Bearer {token}"}
            assert [job["id"] for job in own.get("/v1/videos", headers=headers).json()["data"]] == [done["id"]]
            (tmp_path / f"{number}-edited.mp4").write_bytes(
                own.get(f"/v1/videos/{done['id']}/content", headers=headers).content
            )
        return open_clip(FileSource(tmp_path / f"{number}-edited.mp4"), 0, 0).frames

    with ThreadPoolExecutor(20) as pool:
        assert [*pool.map(whole, range(20))] == [1 + number % 8 for number in range(20)]


def test_nobody_gets_anothers_edit(server, clip):
    client, engine = server
    mine = send(client, clip, "at once", "a token of mine").json()["id"]
    ended(client, mine, "a token of mine")
    for headers in ({}, {"Authorization": "Bearer you"}, {"Authorization": "Basic a token of mine"}):
        for path in (f"/v1/videos/{mine}", f"/v1/videos/{mine}/content"):
            assert client.get(path, headers=headers).status_code == 404
        assert client.delete(f"/v1/videos/{mine}", headers=headers).status_code == 404
    assert client.get("/v1/videos").status_code == 401
    assert client.get("/v1/videos", headers={"Authorization": "Bearer you"}).json()["data"] == []
    assert status_of(client, mine, "a token of mine")["status"] == "completed"
    assert len(mine) == len("video_") + 32
    for path in ("..", "%2e%2e", f"{mine}%2fjob.json", ".lock"):
        assert client.get(f"/v1/videos/{path}/content").status_code == 404
    assert "a token of mine" not in (engine.jobs.of(mine) / "job.json").read_text(encoding="utf-8")


def test_a_list_comes_in_pages(server, clip):
    client, _ = server
    ids = [send(client, clip, "at once", "lister").json()["id"] for _ in range(3)]
    headers = {"Authorization": "Bearer lister"}
    page = client.get("/v1/videos", params={"limit": 2}, headers=headers).json()
    assert [job["id"] for job in page["data"]] == ids[:0:-1] and page["has_more"]
    rest = client.get("/v1/videos", params={"limit": 2, "after": page["last_id"]}, headers=headers).json()
    assert [job["id"] for job in rest["data"]] == ids[:1] and not rest["has_more"]
    assert client.get("/v1/videos", params={"limit": 0}, headers=headers).status_code == 400


def test_cancelled_where_it_waits_and_where_it_runs(server, clip):
    client, engine = server
    running = send(client, clip, "slowly 100").json()["id"]
    waiting = send(client, clip, "at once").json()["id"]
    after = send(client, clip, "at once").json()["id"]
    until(lambda: status_of(client, running)["status"] == "in_progress")
    assert [status_of(client, id)["queue_position"] for id in (running, waiting, after)] == [0, 1, 2]
    for id in (waiting, running):
        assert client.delete(f"/v1/videos/{id}").status_code == 200
        assert client.get(f"/v1/videos/{id}").status_code == 404
    # The worker is at its step still, which takes 5 seconds.
    assert client.get("/health").json()["in_progress"] == 1 and status_of(client, after)["queue_position"] == 1
    done = ended(client, after)
    assert done["status"] == "completed" and done["attempts"] == 1
    assert not folders(engine) & {running, waiting}
    assert client.get("/health").json()["in_progress"] == 0


PLAYLISTS = {
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    "list.mp4": b"ffconcat version 1.0\nfile other.mp4\n",
    "stream.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


def test_what_is_no_video_is_refused_and_leaves_nothing(server, clip, tmp_path):
    client, engine = server
    before = folders(engine)
    broken = clip.read_bytes()[:200]
    for name, content in {"text.mp4": b"no video " * 99, "half.mp4": broken, "empty.mp4": b"", **PLAYLISTS}.items():
        (tmp_path / name).write_bytes(content)
        answer = send(client, tmp_path / name, "at once")
        assert answer.status_code == 400 and words_of(answer).startswith("The video "), answer.text
    wrong = send(client, clip, "at once", files=[("mask", ("mask.png", b"no picture"))])
    assert wrong.status_code == 400 and words_of(wrong).startswith("The mask ")
    assert folders(engine) == before


def test_limits_are_said(server, clip, tmp_path):
    client, engine = server
    before = folders(engine)
    long = write_clip(tmp_path / "long.mp4", LIMITS.frames + 1)
    refused = {
        "more than the 8 frames": send(client, long, "at once"),
        "9 frames are more": send(client, long, "at once", frames=9),
        "4,096 pixels": send(client, clip, "at once", size="128x64"),
        "multiples of 16": send(client, clip, "at once", size="65x64"),
        "prompt is empty": send(client, clip, " "),
        "seed": send(client, clip, "at once", seed="one"),
        "steps must be from": send(client, clip, "at once", steps=0),
        "a box is": send(client, clip, "at once", box="1,2"),
    }
    for words, answer in refused.items():
        assert answer.status_code == 400 and words in words_of(answer), answer.text
    big = tmp_path / "big.mp4"
    big.write_bytes(b"0" * (LIMITS.bytes + 1))
    answer = send(client, big, "at once")
    assert answer.status_code == 413 and "1 MB" in words_of(answer)
    assert send(client, clip, "at once", model="sora").status_code == 404
    assert folders(engine) == before
    assert ended(client, send(client, long, "at once", frames=3).json()["id"])["status"] == "completed"


@pytest.mark.parametrize(
    "request_of, told",
    [
        ({"data": {"guidence": "3"}}, "There is no field 'guidence': guidance is the nearest that there is"),
        ({"data": {"Seed": "3"}}, "There is no field 'Seed': seed is the nearest"),
        ({"data": {"colour": "red"}}, "There is no field 'colour': there are video, prompt, mask"),
        ({"data": {"seed": ["1", "2"]}}, "seed comes 2 times: send it once."),
        ({"data": {"mask": "mask.png"}}, "mask is a file, as of curl -F mask=@NAME; got the text 'mask.png'."),
        ({"files": {"masks": ("a.png", b"0")}}, "There is no field 'masks': mask is the nearest"),
        ({"params": {"guidance": "3"}}, "guidance is a field of the form, and no parameter of the address"),
        ({"params": {"verbose": "1"}}, "There is no parameter 'verbose': this address takes none."),
        ({"files": None, "json": {"prompt": "p"}}, "The request is application/json: send a form, multipart/form-data"),
        ({"files": None}, "The request is of no type: send a form"),
    ],
)
def test_what_an_edit_does_not_have_is_refused_by_name(request_of, told, server, clip):
    client, engine = server
    before = folders(engine)
    sent = {"video": (clip.name, clip.read_bytes())}
    asked = dict(request_of)
    if "json" not in asked and asked.get("files", sent) is not None:
        asked["data"] = {"prompt": "at once"} | asked.get("data", {})
        asked["files"] = sent | asked.get("files", {})
    answer = client.post("/v1/videos/edits", **asked)
    assert answer.status_code == 400 and told in words_of(answer), answer.text
    assert folders(engine) == before


def test_what_openais_clients_send_is_taken(server, clip):
    client, engine = server
    image = ("input_reference", ("hat.mp4", clip.read_bytes()))
    others = {"user": "me", "safety_identifier": "me", "seconds": "4", "model": "stand-in", "box[]": ["0,0,8,8", "8,0,8,8"]}
    made = send(client, clip, "at once", files=[image, ("reference[]", image[1])], **others).json()
    kept = json.loads((engine.jobs.of(made["id"]) / "job.json").read_text(encoding="utf-8"))["edit"]
    assert kept["references"] == ["reference.mp4", "reference1.mp4"] and kept["boxes"] == [[0, 0, 8, 8], [8, 0, 8, 8]]
    assert ended(client, made["id"])["status"] == "completed" and kept["frames"] == 0
    assert client.get(f"/v1/videos/{made['id']}/content", params={"variant": "video"}).status_code == 200
    assert "variant: " in words_of(client.get(f"/v1/videos/{made['id']}/content", params={"variant": "thumbnail"}))


def test_unknown_parameters_and_addresses_are_named(server):
    client, _ = server
    wrong = client.get("/v1/videos", params={"limt": 2}, headers={"Authorization": "Bearer lister"})
    assert wrong.status_code == 400 and "There is no parameter 'limt': limit is the nearest" in words_of(wrong)
    assert client.get("/health", params={"now": 1}).status_code == 200
    assert "There is no address /v1/vidos: /openapi.json" in words_of(client.get("/v1/vidos"))
    assert "POST is not for /v1/videos: /openapi.json" in words_of(client.post("/v1/videos"))


def test_an_upload_that_breaks_off_or_states_no_length_leaves_nothing(server):
    client, engine = server
    before = folders(engine)
    head = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
        line.sendall(
            b"POST /v1/videos/edits HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000\r\n\r\n"
        )
        line.sendall(head + b"0" * 500)
    endless = (head if number == 0 else b"0" * 2**16 for number in range(40))
    try:
        answer = client.post("/v1/videos/edits", content=endless, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 413
    except httpx.TransportError:  # the server closed the connection while the client still sent
        pass
    assert client.get("/health").json()["status"] == "ok" and folders(engine) == before


def test_a_failed_edit_says_why_and_the_next_one_runs(server, clip):
    client, _ = server
    early = ended(client, send(client, clip, "ends").json()["id"])
    assert "The file ends early" in early["error"]["message"] and early["attempts"] == 1
    failed = ended(client, send(client, clip, "broken").json()["id"])
    assert failed["status"] == "failed" and "attention" in failed["error"]["message"]
    answer = client.get(f"/v1/videos/{failed['id']}/content")
    assert answer.status_code == 409 and "failed" in words_of(answer)
    assert ended(client, send(client, clip, "at once").json()["id"])["status"] == "completed"


def test_a_killed_worker_loses_no_edit(server, clip, tmp_path):
    client, _ = server
    once = send(client, clip, f"die-once {tmp_path / 'died'}").json()["id"]
    always = send(client, clip, "die").json()["id"]
    device = send(client, clip, "device").json()["id"]
    crash = send(client, clip, "crash SIGSEGV").json()["id"]
    last = send(client, clip, "at once").json()["id"]
    assert (ended(client, once)["status"], status_of(client, once)["attempts"]) == ("completed", 2)
    gone = ended(client, always)
    assert (gone["status"], gone["attempts"]) == ("failed", 2) and "2 workers in turn were lost" in gone["error"]["message"]
    assert "illegal memory access" in ended(client, device)["error"]["message"]
    assert "Segmentation fault" in ended(client, crash)["error"]["message"]
    assert ended(client, last)["status"] == "completed"


def test_a_full_queue_refuses_and_a_restarted_server_goes_on(clip, tmp_path):
    with serving(tmp_path / "jobs", max_queue=2) as (client, engine):
        done = send(client, clip, "at once", "me").json()["id"]
        ended(client, done, "me")
        running = send(client, clip, "slowly 30", "me").json()["id"]
        until(lambda: status_of(client, running, "me")["status"] == "in_progress")
        waiting = [send(client, clip, "at once", "me").json()["id"] for _ in range(2)]
        answer = send(client, clip, "at once", "me")
        assert answer.status_code == 429 and answer.headers["retry-after"] and "2 edits wait" in words_of(answer)
        with pytest.raises(JobsError, match=f"process {os.getpid()}"), Engine(Jobs(tmp_path / "jobs"), ModelChoice(), 2):
            pass
    (tmp_path / "jobs" / "video_unfinished").mkdir()
    record = tmp_path / "jobs" / running / "job.json"
    job = json.loads(record.read_text(encoding="utf-8"))
    assert (job["status"], job["attempts"]) == ("queued", 0)
    job["edit"]["prompt"] = "at once"
    record.write_text(json.dumps(job), encoding="utf-8")
    with serving(tmp_path / "jobs") as (client, engine):
        listed = client.get("/v1/videos", headers={"Authorization": "Bearer me"}).json()["data"]
        assert {job["id"] for job in listed} == {done, running, *waiting} == folders(engine)
        assert {ended(client, id, "me")["status"] for id in (running, *waiting)} == {"completed"}
        assert client.get(f"/v1/videos/{done}/content", headers={"Authorization": "Bearer me"}).status_code == 200


@pytest.mark.parametrize("attempts, status", [(1, "completed"), (2, "failed")])
def test_a_server_that_was_killed_runs_the_edit_again_but_not_for_ever(clip, tmp_path, attempts, status):
    folder = tmp_path / "jobs" / ("video_" + "0" * 32)
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(clip.read_bytes())
    edit = {"video": "video.mp4", "prompt": "at once"}
    job = {"id": folder.name, "owner": "", "edit": edit, "created": 1, "status": "in_progress", "attempts": attempts}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    with serving(tmp_path / "jobs") as (client, _):
        assert ended(client, folder.name)["status"] == status


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path):
    for model, words in (("missing", "There is no model called missing"), ("crash", "2 workers in turn died")):
        with pytest.raises(ModelGone, match=words), serving(tmp_path / "jobs", choice=ModelChoice(model)):
            pass


def test_sigkill_of_the_idle_worker_is_no_edits_fault(server, clip):
    client, engine = server
    import multiprocessing

    worker = next(process for process in multiprocessing.active_children() if process.name == "liveditor worker")
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert ended(client, send(client, clip, "at once").json()["id"])["status"] == "completed"
