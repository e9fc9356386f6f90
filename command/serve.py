"""liveditor serve: a server that holds the model."""

from __future__ import annotations

import argparse
import socket
from importlib.util import find_spec
from pathlib import Path

from ..batch.cluster import sigterm_as_ctrl_c
from ..optional import needed
from ..pipelines import require
from ..pipelines.request import ModelChoice
from ..serve import EXTRA
from ..serve.jobs import Jobs
from .options import add_model_options, frame_size, model_choice, whole_number
from .outcome import Outcome, Status

EPILOG = """\
examples:
  liveditor serve                                                     LIVEditor-tiny, at http://127.0.0.1:8000
  liveditor serve --model LIVEditor-14B --jobs /data/jobs --max-frames 161
  curl http://127.0.0.1:8000/v1/videos/edits -F video=@holiday.mp4 -F prompt="Make it night"

/ is a page for edits, where Gradio is installed; /openapi.json describes the endpoint. One edit runs at a time, others wait. Jobs and
their files lie in --jobs: a server that is started again goes on with them. The model is in a process of its own; where
that dies, the edit is run again, and fails after the second time. The server knows no accounts: see docs/serve.md before
others may reach it.
"""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Hold the model and edit what clients send.", EPILOG
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all (default: %(default)s)")
    server.add_argument("--port", type=_port, default=8000, help="0 for any that is free (default: %(default)s)")
    server.add_argument(
        "--jobs",
        type=Path,
        default=Path("jobs"),
        metavar="DIR",
        help="folder for jobs and their files (default: ./%(default)s)",
    )
    server.add_argument(
        "--name", metavar="NAME", help="of the model, for clients (default: LIVEditor-tiny, or that of --model's file)"
    )
    server.add_argument("--page", action=argparse.BooleanOptionalAction, help="the page (default: where Gradio is installed)")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-upload", type=whole_number, default=512, metavar="MB", help="of a request (default: %(default)s)"
    )
    limits.add_argument("--max-frames", type=whole_number, default=81, metavar="N", help="of an edit (default: %(default)s)")
    limits.add_argument(
        "--max-size", type=frame_size, default=(1280, 720), metavar="WxH",
        help="of an edit whose size the client chooses, in pixels (default: 1280x720)",
    )  # fmt: skip
    limits.add_argument(
        "--max-queue", type=whole_number, default=100, metavar="N", help="edits that wait (default: %(default)s)"
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> Outcome:
    """Until Ctrl-C or SIGTERM. After these the running edit is queued again, and a server that is started again goes on."""
    choice = model_choice(options)
    choice.check_files()
    # This extra's own first: it brings the others' too.
    for module, package in (("fastapi", "fastapi"), ("python_multipart", "python-multipart"), ("uvicorn", "uvicorn")):
        needed(module, package, EXTRA)
    require("av")
    jobs = Jobs(options.jobs)
    try:
        with sigterm_as_ctrl_c():
            _serve(options, choice, jobs)
    except KeyboardInterrupt:
        print(f"Stopped. What waits in {jobs.folder} goes on when the server is started again.")
    return Outcome(Status.STOPPED, {"jobs": str(jobs.folder)})


def _serve(options: argparse.Namespace, choice: ModelChoice, jobs: Jobs):
    import uvicorn

    from ..serve.app import create_app
    from ..serve.engine import Engine
    from ..serve.page import add_page
    from ..serve.uploads import Limits, Uploads

    width, height = options.max_size
    limits = Limits(options.max_upload * 2**20, options.max_frames, width * height)
    name = options.name or ("LIVEditor-tiny" if choice.model == "tiny" else Path(choice.model).stem)
    has_page = find_spec("gradio") is not None if options.page is None else options.page
    if has_page:
        needed("gradio", "gradio", EXTRA)
    with _listener(options.host, options.port) as listener:
        print(f"{name} is being loaded", flush=True)
        with Engine(jobs, choice, options.max_queue) as engine, Uploads(engine, limits) as uploads:
            app = create_app(uploads, engine, name)
            if has_page:
                app = add_page(app, engine, uploads, name)
            host, port = listener.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"{name} edits at {url}; jobs are in {jobs.folder}", flush=True)
            level = "warning" if options.quiet else "info"
            # Open requests get some seconds at the end.
            config = uvicorn.Config(app, log_level=level, timeout_graceful_shutdown=5)
            uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    """Bound before the model loads, so that a port that is taken is refused at once. Raises OSError in one sentence."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        words = f"The server cannot listen at {host}:{port} ({error.strerror or error}): choose another --host or --port"
        raise OSError(error.errno, words) from None
    return listener


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a number from 0 to 65535; got {text!r}")
    return int(text)
