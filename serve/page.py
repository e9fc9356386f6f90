"""A page over the server: one form, made with Gradio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import HTTPException

from ..optional import needed
from . import EXTRA
from .engine import Engine, ModelGone, QueueFull
from .jobs import DONE, FAILED, QUEUED
from .uploads import Upload, Uploads

LOOK_EVERY = 0.5
"""Seconds between two looks at a job."""

KEPT = 24 * 60 * 60
"""Seconds that Gradio keeps what was uploaded to it."""

NOBODY = ""
"""The page's jobs have no owner: they are reached by their ids alone."""


def no_such_address(path: str):
    raise HTTPException(404, f"There is no address /v1/{path:.60}: /openapi.json lists those that there are.")


def add_page(app, engine: Engine, uploads: Uploads, model: str):
    """The app with the page at /. Raises RuntimeError, which says what to install, where Gradio is missing."""
    gr = needed("gradio", "gradio", EXTRA)

    def edit(path: str | None, prompt: str, steps: float, seed: float) -> Iterator[tuple[str, str, str]]:
        """What the page shows, whenever that changes: HTML of the video, words, and the job's id."""
        if not path:
            raise gr.Error("Choose a video to edit.", print_exception=False)
        values = {"prompt": prompt or "", "seed": int(seed), "steps": int(steps) or None}
        try:
            with open(path, "rb") as content:
                job = uploads.submit(NOBODY, values, {"video": [Upload(Path(path).name, content)]})
        except (ValueError, QueueFull, ModelGone, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        while job.status not in (DONE, FAILED) and engine.job(job.id, NOBODY):
            words = (
                f"Waiting; edits before this one: {engine.place(job)}" if job.status == QUEUED else f"Editing: {job.progress} %"
            )
            yield "", words, job.id
            time.sleep(LOOK_EVERY)
        if not engine.job(job.id, NOBODY):
            yield "", "Cancelled.", ""
        elif job.status == FAILED:
            yield "", f"Failed: {job.error}", ""
        else:
            # By the endpoint's address: Gradio keeps no copy, and needs no leave to read the folder of all jobs.
            file = f"v1/videos/{job.id}/content"
            yield f'<video src="{file}" controls loop style="width: 100%"></video>', f"Done: [download]({file}).", ""

    def cancel(id: str):
        if job := engine.job(id, NOBODY):
            engine.remove(job)

    with gr.Blocks(title="LIVEditor", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# LIVEditor\nEdit a video by instruction, with {model}. At most {uploads.limits.frames} frames.")
        job_id = gr.State("")
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"], elem_id="source")
                prompt = gr.Textbox(label="What to change", placeholder="Make the video look like sunset", elem_id="prompt")
                with gr.Row():
                    steps = gr.Number(0, label="Steps", info="0: the model's", precision=0, minimum=0)
                    seed = gr.Number(42, label="Seed", precision=0, minimum=0)
                with gr.Row():
                    run = gr.Button("Edit", variant="primary", elem_id="edit")
                    stop = gr.Button("Cancel", elem_id="cancel")
            with gr.Column():
                result = gr.HTML(label="Edited video", elem_id="result")
                words = gr.Markdown(elem_id="words")
        gr.on([run.click, prompt.submit], edit, [video, prompt, steps, seed], [result, words, job_id], concurrency_limit=None)
        stop.click(cancel, job_id, None, queue=False)
    # Gradio would answer in a form of its own.
    app.add_api_route("/v1/{path:path}", no_such_address, methods=["GET", "POST", "DELETE"], include_in_schema=False)
    # The system's fonts: Gradio's own come from another host.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(app, page, "/", max_file_size=uploads.limits.bytes, theme=theme, footer_links=[])
