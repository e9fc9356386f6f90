"""An OpenAI-compatible server that answers as a script says, in a thread of its own."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def scores(**values) -> str:
    return json.dumps({"reason": "as asked", **values})


GOOD = scores(following=7, preservation=8, quality=9)


class FakeJudge(ThreadingHTTPServer):
    """script: a list of steps, the last of which goes on: a text is the answer's; a number is a state of HTTP; "slow" never ends
    and sends a byte now and then; "cut" ends within the answer; "gone" takes the server down without an answer; "no completion" is JSON of another kind.
    port: 0 for any that is free.
    asked: the requests' bodies."""

    daemon_threads = True

    def __init__(self, script, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.asked, self.headers, self.over = [*script], [], [], threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.headers.append(dict(self.headers))
        step = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        if step == "gone":
            server.shutdown()
            server.socket.close()
            self.close_connection = True
            return
        if isinstance(step, int):
            self.send_response(step)
            if step == 429:
                self.send_header("Retry-After", "3")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = {"model": "fake-1", "choices": [{"message": {"content": step}}], "usage": {"total_tokens": 12}}
        body = json.dumps({"hello": 1} if step == "no completion" else answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (10_000 if step in ("slow", "cut") else 0)))
        self.end_headers()
        self.wfile.write(body[:20] if step in ("slow", "cut") else body)
        self.wfile.flush()
        while step == "slow" and not server.over.wait(0.05):
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                return
        if step == "cut":
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@contextmanager
def fake_judge(*script, port=0):
    with FakeJudge(script, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
