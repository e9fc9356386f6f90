"""A real ComfyUI without a browser: importable modules for unit tests, or a complete server in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui")
CLIP = ROOT / "web/liveditor_sample.mp4"
"""The clip of the templates. The page copies it to the server's input folder; a script has to do so itself."""


def import_comfy():
    """Make `comfy` importable in this process, on the CPU, without it reading our command line."""
    if str(COMFYUI) not in sys.path:
        sys.path.insert(0, str(COMFYUI))
    from comfy.cli_args import args

    args.cpu = True


@dataclass
class Run:
    """What one queued prompt did."""

    executed: list[str] = field(default_factory=list)
    """Node ids that ran, in order."""
    cached: list[str] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)
    error: str | None = None
    """Message of the exception that ended it, as the page shows it."""
    error_type: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Lines shown on nodes, by node id."""


class PromptRefused(Exception):
    """The server did not accept a prompt; `details` is its answer."""

    def __init__(self, details: dict):
        self.details = details
        errors = [error for node in details.get("node_errors", {}).values() for error in node["errors"]]
        super().__init__("; ".join(f"{e['message']}: {e['details']}" for e in errors or [details["error"]]))


class ComfyServer:
    """ComfyUI's server as a subprocess, with models, input, output and this pack in `base`.

    models: folder linked as models/, None for an empty one. launcher: a command that starts the one that follows it.
    Use as a context manager.
    """

    def __init__(
        self,
        base: Path,
        models: Path | None,
        *options: str,
        gpu: bool = False,
        port: int | None = None,
        launcher: tuple[str, ...] = (),
    ):
        self.base, self.options, self.gpu, self.launcher = Path(base), options, gpu, launcher
        self.port = port or _free_port()
        self.client = uuid.uuid4().hex
        for folder in ("input", "output", "user", "custom_nodes"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        if models is None:
            models = self.base / "no-models"
            models.mkdir(exist_ok=True)
        if Path(models) != self.base / "models":
            _link(self.base / "models", models)
        _link(self.base / "custom_nodes/liveditor_isa", ROOT)
        self.log_path = self.base / "server.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyServer:
        command = [*self.launcher, sys.executable, str(COMFYUI / "main.py")]
        command += ["--port", str(self.port), "--base-directory", str(self.base)]
        # By default it lies inside ComfyUI's folder, which may be the user's.
        command += ["--database-url", f"sqlite:///{self.base}/user/comfyui.db"]
        command += ["--disable-api-nodes", "--disable-auto-launch", *([] if self.gpu else ["--cpu"]), *self.options]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.base)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self.__exit__()
        raise RuntimeError(f"ComfyUI did not start; its log ends:\n{self.log()[-3000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def add_input(self, path: Path) -> str:
        """Copy a file to the input folder; its name there."""
        shutil.copy(path, self.base / "input" / Path(path).name)
        return Path(path).name

    def run(self, prompt: dict, workflow: dict | None = None, on_progress=None) -> Run:
        """Queue a prompt in API form and wait for its end.

        workflow: what the page would send along, and what ends up in saved files. on_progress: called with (node, value, max).
        Raises PromptRefused when the server finds the prompt invalid.
        """
        from websockets.sync.client import connect

        body = {
            "prompt": prompt,
            "client_id": self.client,
            "extra_data": {"extra_pnginfo": {"workflow": workflow}} if workflow else {},
        }
        with connect(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", max_size=None) as socket_:
            try:
                prompt_id = self.post("/prompt", body)["prompt_id"]
            except urllib.error.HTTPError as error:
                raise PromptRefused(json.load(error)) from None
            return self._follow(socket_, prompt_id, on_progress)

    @staticmethod
    def _follow(socket_, prompt_id: str, on_progress) -> Run:
        run = Run()
        for message in socket_:
            if isinstance(message, bytes):
                if int.from_bytes(message[:4], "big") == 3:  # text shown on a node
                    length = int.from_bytes(message[4:8], "big")
                    run.texts.setdefault(message[8 : 8 + length].decode(), []).append(message[8 + length :].decode())
                continue
            event = json.loads(message)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            if kind == "executing" and data["node"]:
                run.executed.append(data["node"])
            elif kind == "execution_cached":
                run.cached += data["nodes"]
            elif kind == "executed" and data["output"]:
                run.outputs[data["node"]] = data["output"]
            elif kind == "progress" and on_progress:
                on_progress(data["node"], data["value"], data["max"])
            elif kind == "execution_error":
                run.error, run.error_type = data["exception_message"].strip(), data["exception_type"]
                return run
            elif kind == "execution_interrupted":
                run.error, run.error_type = "interrupted", "interrupted"
                return run
            elif kind == "execution_success":
                return run
        raise RuntimeError("The server closed the connection before the prompt ended")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _link(link: Path, target: Path):
    if link.is_symlink():
        link.unlink()
    link.symlink_to(Path(target).resolve(), target_is_directory=True)
