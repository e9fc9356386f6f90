"""A real server of edits on 127.0.0.1, in this process, with its worker in another."""

import socket
import threading
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import httpx
import torch
import uvicorn
from liveditor_isa.pipelines.request import ModelChoice
from liveditor_isa.serve.app import create_app
from liveditor_isa.serve.engine import Engine
from liveditor_isa.serve.jobs import Jobs
from liveditor_isa.serve.uploads import Limits, Uploads
from liveditor_isa.video.mp4 import write_mp4
from waiting import until

LIMITS = Limits(bytes=2**20, frames=8, pixels=64 * 64)


def write_clip(path: Path, frames: int = 5) -> Path:
    ramp = torch.linspace(0, 1, frames).reshape(-1, 1, 1, 1).expand(-1, 32, 48, 3)
    return write_mp4(path, [ramp.contiguous()], Fraction(10))


@contextmanager
def serving(folder: Path, editor: str = "fake_editor", max_queue: int = 100, choice=ModelChoice(), limits=LIMITS, page=False):
    """An HTTP client of the server, and its engine."""
    with Engine(Jobs(folder), choice, max_queue, editor) as engine, Uploads(engine, limits) as uploads:
        app = create_app(uploads, engine, "stand-in")
        if page:
            from liveditor_isa.serve.page import add_page

            app = add_page(app, engine, uploads, "stand-in")
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            until(lambda: server.started, "the server does not start")
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                yield client, engine
        finally:
            server.should_exit = True
            thread.join()


def send(client, clip: Path, prompt: str, token: str | None = None, files=(), **values) -> httpx.Response:
    """The server's answer to a request for an edit."""
    sent = [("video", (clip.name, clip.read_bytes())), *files]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.post("/v1/videos/edits", data={"prompt": prompt, **values}, files=sent, headers=headers)


def status_of(client, id: str, token: str | None = None) -> dict:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.get(f"/v1/videos/{id}", headers=headers).json()


def ended(client, id: str, token: str | None = None) -> dict:
    """What the server says of an edit once it is done or has failed."""
    until(lambda: status_of(client, id, token)["status"] in ("completed", "failed"), every=0.05)
    return status_of(client, id, token)
