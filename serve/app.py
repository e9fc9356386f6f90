"""The HTTP interface: OpenAI's for edits of videos, with this editor's options beside."""

# FastAPI reads annotations, some of which name what is local: they are no texts here.
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, Header, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from ..errors import sentence
from ..version import __version__
from .engine import Engine, ModelGone, QueueFull
from .fields import check_form, check_parameters
from .jobs import DONE, Job
from .uploads import Upload, Uploads

RETRY_AFTER = 10
"""Seconds after which a client may try again where the queue is full."""

KINDS = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Types of errors by OpenAI's words; all others are a server_error."""


class SizeLimit:
    """ASGI middleware that ends a request whose body is longer than `limit` bytes, before more of it is kept."""

    def __init__(self, app, limit: int):
        self._app, self._limit = app, limit

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        words = f"The request is longer than the {self._limit / 2**20:g} MB that this server takes: send a smaller file."
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            return await _error(413, words)(scope, receive, send)
        received = 0

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, words)
            return message

        await self._app(scope, counted, send)


def create_app(uploads: Uploads, engine: Engine, model: str) -> FastAPI:
    """model: the name by which clients know it."""
    about = "Edits of videos by instruction."
    app = FastAPI(title="LIVEditor", version=__version__, description=about, dependencies=[Depends(check_parameters)])
    app.add_middleware(SizeLimit, limit=uploads.limits.bytes)

    @app.exception_handler(AnyHTTPException)
    async def on_error(request: Request, error: AnyHTTPException):
        words = {
            404: f"There is no address {request.url.path:.60}: /openapi.json lists those that there are.",
            405: f"{request.method} is not for {request.url.path:.60}: /openapi.json lists what is.",
        }
        is_routing = error.detail in ("Not Found", "Method Not Allowed")  # by their standard's words
        return _error(error.status_code, words[error.status_code] if is_routing else str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_value(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        return _error(400, f"{'.'.join(map(str, first['loc'][1:])) or 'The request'}: {first['msg']}.")

    def job_of(video_id: str, owner: Annotated[str, Depends(owner_of)]) -> Job:
        if job := engine.job(video_id, owner):
            return job
        raise HTTPException(404, f"There is no video {video_id:.60}: it was deleted, or is another client's.")

    ItsJob = Annotated[Job, Depends(job_of)]

    def shown(job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": "video",
            "model": model,
            "status": job.status,
            "progress": job.progress,
            "created_at": job.created,
            "completed_at": job.completed,
            "prompt": job.edit["prompt"],
            "error": {"code": "edit_failed", "message": job.error} if job.error else None,
            "attempts": job.attempts,
            "queue_position": engine.place(job),
            "facts": job.facts,
        }

    @app.post("/v1/videos/edits", dependencies=[Depends(check_form)])
    def create(
        owner: Annotated[str, Depends(owner_of)],
        video: Annotated[UploadFile, File(description="the video to edit")],
        prompt: Annotated[str, Form(description="what to change")],
        mask: Annotated[UploadFile | None, File(description="image or video; the edit shows where it is white")] = None,
        reference: Annotated[list[UploadFile], File(description="images or videos that the prompt may refer to")] = [],
        negative_prompt: Annotated[str | None, Form()] = None,
        seed: Annotated[int | None, Form()] = None,
        steps: Annotated[int | None, Form()] = None,
        guidance: Annotated[float | None, Form()] = None,
        frames: Annotated[int | None, Form(description="at most so many; without it the whole video")] = None,
        fps: Annotated[float | None, Form()] = None,
        start_frame: Annotated[int | None, Form()] = None,
        every_nth: Annotated[int | None, Form()] = None,
        size: Annotated[str | None, Form(description="of the edit, as in 832x480")] = None,
        box: Annotated[list[str], Form(description="x,y,width,height in pixels of the video")] = [],
        feather: Annotated[int | None, Form()] = None,
        match_colors: Annotated[bool | None, Form()] = None,
        whole_frame: Annotated[bool | None, Form()] = None,
        window: Annotated[int | None, Form()] = None,
        window_overlap: Annotated[int | None, Form()] = None,
        model_name: Annotated[str | None, Form(alias="model")] = None,
        input_reference: Annotated[list[UploadFile], File(description="as reference, by OpenAI's name")] = [],
        reference_list: Annotated[list[UploadFile], File(alias="reference[]", description="as reference")] = [],
        box_list: Annotated[list[str], Form(alias="box[]", description="as box")] = [],
    ) -> dict[str, Any]:
        """Queue an edit. Values are those of `liveditor edit`, with its defaults, but for `frames`."""
        if model_name not in (None, model):
            raise HTTPException(404, f"There is no model {model_name:.60} here, only {model}.")
        values = {
            "prompt": prompt, "negative_prompt": negative_prompt, "seed": seed, "steps": steps, "guidance": guidance,
            "frames": frames, "fps": fps, "start_frame": start_frame, "every_nth": every_nth, "size": size, "boxes": box + box_list,
            "feather": feather, "match_colors": match_colors, "whole_frame": whole_frame, "window": window,
            "window_overlap": window_overlap,
        }  # fmt: skip
        references = reference + reference_list + input_reference
        files = {"video": [video], "mask": [mask] if mask else [], "reference": references}
        sent = {kind: [Upload(each.filename or "", each.file) for each in group] for kind, group in files.items()}
        with refusals():
            return shown(uploads.submit(owner, values, sent))

    @app.get("/v1/videos")
    def list_videos(
        owner: Annotated[str, Depends(owner_of)],
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """This client's edits. Without a token nobody is known, and nothing listed."""
        if not owner:
            raise HTTPException(
                401, "Edits are listed by token: send one of your own, Authorization: Bearer …, with every request."
            )
        jobs = engine.of(owner)
        jobs = jobs if order == "desc" else jobs[::-1]
        ids = [job.id for job in jobs]
        if after is not None and after not in ids:
            raise HTTPException(404, f"There is no video {after:.60}: it was deleted, or is another client's.")
        begin = ids.index(after) + 1 if after is not None else 0
        found = jobs[begin : begin + limit]
        return {
            "object": "list",
            "data": [shown(job) for job in found],
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
            "has_more": len(jobs) > begin + limit,
        }

    @app.get("/v1/videos/{video_id}")
    def retrieve(job: ItsJob) -> dict[str, Any]:
        """Its status: queued, in_progress, completed or failed; and the progress of its steps, 0..100."""
        return shown(job)

    @app.get("/v1/videos/{video_id}/content")
    def content(job: ItsJob, variant: Literal["video"] = "video") -> FileResponse:
        """The edited video. Of OpenAI's variants there is no other."""
        if job.status != DONE:
            raise HTTPException(409, f"The video is not there: its status is {job.status}.")
        return FileResponse(engine.jobs.result(job.id), media_type="video/mp4", filename=f"{job.id}.mp4")

    @app.delete("/v1/videos/{video_id}")
    def delete(job: ItsJob) -> dict[str, Any]:
        """Cancel an edit that waits or runs; remove its files."""
        engine.remove(job)
        return {"id": job.id, "object": "video.deleted", "deleted": True}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "liveditor-isa"}]}

    @app.get("/health")
    def health() -> dict[str, Any]:
        """503 where no edit can run any more."""
        with refusals():
            engine.check()
        return {"status": "ok", **engine.counts()}

    return app


def owner_of(authorization: Annotated[str | None, Header()] = None) -> str:
    """Of whom a request is: a hash of its bearer token, "" without one."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return ""
    return hashlib.sha256(token.strip().encode()).hexdigest()


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what is raised for a request into its status."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, sentence(error)) from None
    except QueueFull as error:
        raise HTTPException(429, str(error), {"Retry-After": str(RETRY_AFTER)}) from None
    except ModelGone as error:
        raise HTTPException(503, str(error)) from None
    except OSError as error:
        raise HTTPException(507, f"The server cannot keep the upload ({error.strerror}).") from None


def _error(status: int, words: str, headers=None) -> JSONResponse:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return JSONResponse({"error": {"message": words, "type": kind, "code": status}}, status, headers)
