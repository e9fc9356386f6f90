"""A ComfyUI server that fails in mid-edit, forgets, saves something else, or is none; and what the settings say of its workflows."""

import io
import json
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("httpx", reason="the data extra is not installed")

from liveditor_isa.batch.job import settings_of  # noqa: E402
from liveditor_isa.batch.manifest import Clip  # noqa: E402
from liveditor_isa.batch.results import JobError, Results  # noqa: E402
from liveditor_isa.batch.worker import Worker  # noqa: E402
from liveditor_isa.curation.editors import Request, WrongEdit, best_edit, editor_of, workflow  # noqa: E402
from liveditor_isa.curation.outcomes import Work  # noqa: E402
from liveditor_isa.curation.settings import Settings, StageChoice  # noqa: E402
from liveditor_isa.curation.stages import videos  # noqa: E402
from liveditor_isa.evaluation.frames import read_video  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from PIL import Image  # noqa: E402

FRAMES, SIZE = 5, (64, 48)
FROM_VIDEO = {"1": {"class_type": "Any", "inputs": {"video": "%video%", "text": "%instruction%"}}}


class FakeServer:
    """answers: {beginning of a path: what is answered, bytes, JSON or a state of HTTP; None for the server's death}. sent: the workflows that were sent."""

    def __init__(self):
        self.answers = {"/system_stats": {"system": {}}, "/upload": {"name": "clip.mp4"}, "/prompt": {"prompt_id": "a"}}
        self.answers |= {"/queue": {"queue_running": [], "queue_pending": []}, "/history": {}}
        self.sent: list[dict] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path == "/prompt":
                    fake.sent.append(json.loads(body)["prompt"])
                answer = next(answer for path, answer in fake.answers.items() if self.path.startswith(path))
                if answer is None:
                    threading.Thread(target=fake.close).start()
                    self.close_connection = True
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def saves(self, name: str, content: bytes, before: tuple[dict, ...] = ()):
        file = {"filename": name, "subfolder": "", "type": "output"}
        self.answers["/view"] = content
        outputs = {str(at): one for at, one in enumerate([*before, {"images": [file]}])}
        self.answers["/history"] = {"a": {"status": {"status_str": "success"}, "outputs": outputs}}


@pytest.fixture
def fake():
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def file_of(tmp_path):
    def written(content: dict, name: str = "workflow.json") -> str:
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return str(tmp_path / name)

    return written


@pytest.fixture
def clip(tmp_path) -> str:
    return str(write_mp4(tmp_path / "clip.mp4", [torch.rand(FRAMES, SIZE[1], SIZE[0], 3)], Fraction(8)))


def choice(**settings) -> StageChoice:
    settings = Settings(frames=FRAMES, fps=8, width=SIZE[0], height=SIZE[1], video_candidates=1, **settings)
    return StageChoice(settings, ModelChoice(device="cpu"), videos.ABOUT.depends, True)


def asked(clip: str, tmp_path, instruction: str = "make it blue") -> Request:
    return Request(clip, instruction, FRAMES, 0, None, None, SIZE, None, tmp_path / "edit.mp4")


def refusal(fake, file_of, clip, tmp_path) -> str:
    editor = editor_of("workflow", choice(comfyui_url=fake.url), file_of(FROM_VIDEO), FRAMES)
    with pytest.raises((ValueError, WrongEdit)) as error:
        editor.module.edit(editor.tools, asked(clip, tmp_path))
    assert "\n" not in str(error.value) and not [*tmp_path.glob("saved*")]
    return str(error.value)


def test_an_edit_that_the_server_forgot_is_not_waited_for(fake, file_of, clip, tmp_path, monkeypatch):
    """A server that was started anew has neither the edit nor its history."""
    monkeypatch.setattr(workflow, "POLL", 0.01)
    assert "forgot the edit" in refusal(fake, file_of, clip, tmp_path)


def test_an_edit_in_the_queue_is_waited_for(fake, file_of, clip, tmp_path, monkeypatch):
    fake.answers["/queue"] = {"queue_running": [], "queue_pending": [[7, "a", {}, {}, []]]}
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            fake.answers["/queue"] = {"queue_running": [], "queue_pending": []}

    monkeypatch.setattr(workflow.time, "sleep", pause)
    assert "forgot the edit" in refusal(fake, file_of, clip, tmp_path) and len(pauses) == 3


@pytest.mark.parametrize(
    ("answer", "words"), [(None, "does not answer"), (502, "a gateway says 502"), (b"<html>Back soon!</html>", "is no ComfyUI")]
)
def test_a_server_that_dies_stops_the_job_and_puts_no_clip_in_quarantine(fake, file_of, clip, tmp_path, answer, words):
    """All clips behind it would follow within seconds. A proxy may go on answering for it."""
    fake.answers["/queue"] = answer
    stage = choice(comfyui_url=fake.url, video_editor="workflow", video_model=file_of(FROM_VIDEO))
    (tmp_path / "out" / "quarantine").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    worker = Worker(videos.__name__, stage, str(tmp_path / "out"), str(tmp_path / "work"))
    work = Work(clip, {"proposal": {"instruction": "make it blue", "expected": {}}})
    outcome = worker._outcome(Clip("one", 1, work, "f"), 1)
    assert outcome["status"] == "stopped" and words in outcome["reason"]
    assert Results(tmp_path / "out").quarantined("one") is None


def test_another_server_than_comfyuis_is_one_sentence(fake, file_of):
    fake.answers["/system_stats"] = b"<html>It works!</html>"
    for url, words in ((fake.url, "is no ComfyUI"), ("http://[::", "is no address"), ("localhost:8188", "does not answer")):
        with pytest.raises(ValueError, match=words):
            editor_of("workflow", choice(comfyui_url=url), file_of(FROM_VIDEO), FRAMES)


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", SIZE, (0, 0, 200)).save(content, "PNG")
    return content.getvalue()


def test_a_picture_is_no_edit_of_a_clip(fake, file_of, clip, tmp_path):
    """It was compared with the whole clip."""
    fake.saves("edit.png", picture())
    settings = choice(comfyui_url=fake.url)
    editor = editor_of("workflow", settings, file_of(FROM_VIDEO), FRAMES)
    work = Work(clip, {"proposal": {"instruction": "make it blue", "expected": {}}})
    with pytest.raises(WrongEdit, match=r"workflow\.json made 1 frames where 5 were asked for"):
        best_edit(editor, settings.settings, work, tmp_path / "edit.mp4", "videos", 1, lambda *_: {})


def test_sound_that_a_workflow_saves_before_the_video_is_not_the_edit(fake, file_of, clip, tmp_path):
    sound = {"audio": [{"filename": "edit.flac", "subfolder": "", "type": "output"}]}
    fake.saves("edit.mp4", Path(clip).read_bytes(), before=(sound,))
    editor = editor_of("workflow", choice(comfyui_url=fake.url), file_of(FROM_VIDEO), FRAMES)
    request = asked(clip, tmp_path)
    shown = []
    answer = workflow._answer

    def seen(client, method, path, **more):
        shown.append(more.get("params"))
        return answer(client, method, path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "_answer", seen)
        editor.module.edit(editor.tools, request)
    assert shown[-1]["filename"] == "edit.mp4" and len(read_video(str(request.output)).frames) == FRAMES


def test_an_instruction_is_sent_as_it_is(fake, file_of, clip, tmp_path):
    fake.saves("edit.mp4", Path(clip).read_bytes())
    editor = editor_of("workflow", choice(comfyui_url=fake.url), file_of(FROM_VIDEO), FRAMES)
    text = 'mach\'s 50 %seed% "größer" \\n %video% 🐇 雪'
    editor.module.edit(editor.tools, asked(clip, tmp_path, text))
    assert fake.sent[0]["1"]["inputs"] == {"video": "clip.mp4", "text": text}


def test_workers_find_a_workflow_that_was_named_from_here(file_of, tmp_path, monkeypatch):
    """They have folders of their own."""
    written = file_of(FROM_VIDEO)
    monkeypatch.chdir(tmp_path)
    named = choice(video_model="workflow.json", frame_model="Qwen/Qwen-Image-Edit-2509")
    settings = named.absolute().settings
    assert settings.video_model == str(Path(written).resolve()) and settings.frame_model == "Qwen/Qwen-Image-Edit-2509"


def test_pairs_of_two_contents_of_a_workflow_are_not_mixed_and_its_place_may_change(file_of, tmp_path):
    """Its name alone was compared. Neither does a pair depend on the server's address."""
    results = Results(tmp_path / "out")

    def settings(path: str, url: str = "http://a:1") -> dict:
        return settings_of(choice(video_editor="workflow", video_model=path, comfyui_url=url), videos.__name__)

    with results.claim(settings(file_of(FROM_VIDEO))):
        (results.folder / "records/one.json").write_text("{}", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    results.check(settings(file_of(FROM_VIDEO, "elsewhere/workflow.json"), "http://b:2"))
    other = {**FROM_VIDEO, "2": {"class_type": "Other", "inputs": {}}}
    with pytest.raises(JobError, match="video_model"):
        results.check(settings(file_of(other)))


@pytest.mark.parametrize("wrong", [{"frame_model": 5}, {"comfyui_url": None}, {"steps": "30"}, {"frames": 5.0}, {"seed": True}])
def test_a_setting_of_another_type_is_refused_by_its_name(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be of the type"):
        Settings.of(wrong)


def test_words_of_comfyuis_own_are_left_to_it(fake, file_of, clip, tmp_path):
    fake.saves("edit.mp4", Path(clip).read_bytes())
    node = {"class_type": "Any", "inputs": {**FROM_VIDEO["1"]["inputs"], "prefix": "%year%/%seed%", "day": "%day%"}}
    editor = editor_of("workflow", choice(comfyui_url=fake.url), file_of({"1": node}), FRAMES)
    editor.module.edit(editor.tools, asked(clip, tmp_path))
    assert fake.sent[0]["1"]["inputs"]["prefix"] == "%year%/0" and fake.sent[0]["1"]["inputs"]["day"] == "%day%"


def test_a_word_in_a_nodes_title_is_not_taken(fake, file_of):
    node = {"class_type": "Any", "inputs": {"video": "%video%"}, "_meta": {"title": "%instruction%"}}
    with pytest.raises(ValueError, match="must take %instruction%"):
        editor_of("workflow", choice(comfyui_url=fake.url), file_of({"1": node}), FRAMES)
