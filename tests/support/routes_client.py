"""Requests to the routes that the page uses."""

import http.client
import json
from urllib.parse import urlsplit


def ask(server, path: str, body, headers={}, raw: bytes | None = None):
    """(status, answer) of POST /liveditor_isa/`path`; an answer that is no JSON object comes as text."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    content = json.dumps(body).encode() if raw is None else raw
    connection.request("POST", f"/liveditor_isa/{path}", content, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read().decode()
    return answer.status, json.loads(text) if text.startswith("{") else text
