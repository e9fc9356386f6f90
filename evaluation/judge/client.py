"""One question to an OpenAI-compatible endpoint, with bounded time and attempts: vLLM, llama.cpp, Ollama or a service."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit

from ...errors import UnreachableError

KEY_VARIABLE = "LIVEDITOR_JUDGE_KEY"
"""Of the environment: holds the key of a judge's or planner's server."""

WAITS = (1, 2, 4, 8)
"""Seconds before another attempt; the last one for all that follow."""
LONGEST_WAIT = 60
"""Of what a server asks for by Retry-After."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""States of HTTP that another attempt may not meet."""
REFUSED_ALL = {401: "check the key", 403: "check the key", 404: "check the judge's address and model"}
"""States of HTTP that every question would meet, and their cures."""


class JudgeError(RuntimeError):
    """There is no answer to this question: one sentence with the cause."""


class QuestionError(JudgeError, ValueError):
    """The judge has no score for this question, and may have one for others: it refuses it, or answers beside it."""


class _Passing(Exception):
    """Another attempt may help. wait: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0):
        super().__init__(why)
        self.wait = wait


class _Absent(_Passing):
    """There was no connection."""


@dataclass(frozen=True)
class Endpoint:
    """url: up to and without /chat/completions. key: sent as a bearer token. timeout: seconds of one attempt, the whole answer included.

    attempts: at most so many for one question, those with a malformed answer included.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    attempts: int = 4
    temperature: float = 0.0

    def __post_init__(self):
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is no address of a judge: give one like http://localhost:8000/v1.")
        if self.timeout <= 0 or self.attempts < 1:
            raise ValueError("A judge needs a positive time-out and at least one attempt.")

    def reply(self, messages: list[dict]) -> Reply:
        """Of one attempt. Raises _Passing, JudgeError, UnreachableError."""
        return _once(self, messages)


class Judging(Protocol):
    """Who answers questions: an `Endpoint`, or a model in this process.

    model: its name, for records. attempts, temperature: as in `Endpoint`.
    """

    @property
    def model(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    def reply(self, messages: list[dict]) -> Reply: ...


@dataclass(frozen=True)
class Reply:
    """text: of the answer. model: as the server calls it. tokens: as the server counts them, or None; from `ask`, of all its attempts."""

    text: str
    model: str
    tokens: int | None


def ask(
    judge: Judging,
    messages: list[dict],
    understood: Callable[[Reply], object] = lambda reply: reply,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[object, Reply, int]:
    """(what `understood` makes of the reply, the reply, how many attempts it took).

    understood: raises ValueError for an answer that is not as asked for; then the question is put again.
    Raises JudgeError after the last attempt, QuestionError where that is the question's fault, at once where the server refuses it;
    UnreachableError where the server is not there at the last attempt, or would refuse any question.
    """
    why, spent = "", 0
    kind: type[Exception] = JudgeError
    for attempt in range(1, judge.attempts + 1):
        wait = float(WAITS[min(attempt, len(WAITS)) - 1])
        try:
            reply = judge.reply(messages)
            if reply.tokens is not None:
                spent += reply.tokens
                reply = replace(reply, tokens=spent)
            return understood(reply), reply, attempt
        except (UnreachableError, QuestionError):  # ValueErrors too
            raise
        except ValueError as error:
            why, wait, kind = f"its answer is not as asked for ({error})", 0.0, QuestionError
        except _Passing as error:
            why, wait, kind = str(error), max(wait, error.wait), UnreachableError if isinstance(error, _Absent) else JudgeError
        if attempt < judge.attempts and wait:
            sleep(wait)
    times = f"{judge.attempts} attempts" if judge.attempts > 1 else "one attempt"
    if kind is UnreachableError:
        raise UnreachableError(f"The judge {judge.model} cannot be reached ({why}): start its server, or give another address.")
    raise kind(f"The judge {judge.model} gave no score in {times}: {why}.")


def _once(endpoint: Endpoint, messages: list[dict]) -> Reply:
    """Raises _Passing, QuestionError, UnreachableError."""
    body = json.dumps({"model": endpoint.model, "messages": messages, "temperature": endpoint.temperature}).encode()
    status, headers, content = _post(endpoint, body)
    if status in PASSING:
        raise _Passing(f"the server answers {status}", _seconds(headers.get("Retry-After")))
    if status != 200:
        words = content.decode(errors="replace").strip().splitlines()
        said = f" ({words[0][:200]})" if words else ""
        kind = UnreachableError if status in REFUSED_ALL else QuestionError
        raise kind(f"The judge's server refuses with {status}{said}: {REFUSED_ALL.get(status, 'check its log')}.")
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
        tokens = (answer.get("usage") or {}).get("total_tokens")
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Passing("the server's answer is no chat completion") from None
    return Reply(text, str(answer.get("model", endpoint.model)), tokens if isinstance(tokens, int) else None)


def _post(endpoint: Endpoint, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
    """State, headers and the whole content, within the time-out."""
    parts = urlsplit(endpoint.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=endpoint.timeout)
    path = f"{parts.path.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})}
    late, sockets = threading.Event(), []

    def end():
        # The socket's own time-out begins anew with every byte.
        late.set()
        for opened in sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(endpoint.timeout, end)
    alarm.daemon = True
    try:
        try:
            connection.connect()
        except OSError as error:
            raise _Absent(f"{endpoint.url}: {error or type(error).__name__}") from None
        sockets.append(connection.sock)  # the connection lets go of it where the server closes after the answer
        alarm.start()
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if late.is_set():
            raise TimeoutError
        return response.status, response.headers, content
    except (TimeoutError, OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise _Passing(f"the server did not answer within {endpoint.timeout:g} s") from None
        raise _Passing(f"the connection broke off ({type(error).__name__})") from None
    finally:
        alarm.cancel()
        connection.close()


def _seconds(text: str | None) -> float:
    try:
        return min(max(0.0, float(text or 0)), LONGEST_WAIT)
    except ValueError:
        return 0.0
