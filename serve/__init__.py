"""A server that holds the model: jobs in a folder, an OpenAI-style endpoint for edits of videos, a page over it.

`jobs` the folder, `engine` the queue, `worker` the process with the model, `uploads` what clients send, `app` HTTP, `page` the page.
"""

EXTRA = "serve"
"""This project's, which brings all that this folder imports."""
