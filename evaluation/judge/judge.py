"""A judge as a metric: asks, understands, keeps every good answer by the content of its question."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...checkpoint.files import replacing
from ...errors import UnreachableError
from ..frames import Inputs
from ..metrics.metric import Judged, Metric
from .client import Judging, Reply, ask
from .parse import parsed, reason_in
from .rubrics import PAIR, RUBRICS, SYSTEM, Question, Rubric


class Judge:
    """cache: folder of the answers; a question with the same text, pictures, model and temperature is put once. None to keep none.

    sleep: waits between attempts. An UnreachableError, of a wrong key say, is met once: later questions fail with it at once.
    """

    def __init__(self, asked: Judging, cache: Path | None, mode: str, sleep: Callable[[float], object] | None = None):
        self.asked, self.cache, self.mode = asked, cache, mode
        self._options = {"sleep": sleep} if sleep else {}
        self._unreachable: UnreachableError | None = None

    def metric(self, bench: str) -> Metric:
        """What is asked about the items of a bench."""
        rubric = RUBRICS.get(bench, PAIR)
        return Metric(
            rubric.name, partial(self._judged, rubric), rubric.about, rubric.needs, rubric.columns, version=rubric.version,
            model=lambda: f"{self.asked.model}, temperature {self.asked.temperature:g}, mode {self.mode}", calls=rubric.calls,
        )  # fmt: skip

    def _judged(self, rubric: Rubric, inputs: Inputs) -> Judged:
        kept = [self._answer(rubric, question) for question in rubric.ask(inputs, self.mode)]
        if not kept:
            raise ValueError("There is nothing to ask about the item.")
        values = Judged(rubric.combine(inputs.item, [parsed(answer["text"], answer["wanted"]) for answer in kept]))
        values.words = "\n\n".join(reason_in(answer["text"]) for answer in kept)
        names = ("asked_model", "model", "tokens", "attempts", "seconds", "pictures", "rubric", "text")
        values.facts = {"judge": [{name: answer.get(name) for name in names} for answer in kept]}
        return values

    def _answer(self, rubric: Rubric, question: Question) -> dict:
        messages = _messages(question)
        key = hashlib.sha256(json.dumps([self.asked.model, self.asked.temperature, messages]).encode()).hexdigest()
        if self.cache is None:
            return self._asked(rubric, question, messages) | {"wanted": question.wanted}
        path = self.cache / f"{key}.json"
        if (kept := _kept(path)) is None:
            kept = self._asked(rubric, question, messages)
            self.cache.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial_file:
                partial_file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return kept | {"wanted": question.wanted}

    def _asked(self, rubric: Rubric, question: Question, messages: list[dict]) -> dict:
        if self._unreachable:
            raise self._unreachable

        def understood(reply: Reply) -> dict:
            return parsed(reply.text, question.wanted)

        began = time.perf_counter()
        try:
            _, reply, attempts = ask(self.asked, messages, understood, **self._options)
        except UnreachableError as error:
            self._unreachable = error
            raise
        return {
            "asked_model": self.asked.model, "model": reply.model, "tokens": reply.tokens, "attempts": attempts, "text": reply.text,
            "seconds": round(time.perf_counter() - began, 3), "pictures": len(question.pictures),
            "rubric": hashlib.sha256(question.text.encode()).hexdigest()[:16],
        }  # fmt: skip


def foretold(questions: int, asked: Judging, cache: Path, bench: str) -> str:
    """What the questions will take, for people. Tokens are those of this judge's kept answers, where its server counts them."""
    attempts = f", put {asked.attempts} times at most" if asked.attempts > 1 else ""
    said = (
        f"At most {questions} questions to {asked.model}, each with {RUBRICS.get(bench, PAIR).pictures} pictures, reference pictures "
        f"not counted{attempts}; answers that are kept are not asked again."
    )
    kept = [
        answer for path in sorted(cache.glob("*.json")) if (answer := _kept(path)) and answer.get("asked_model") == asked.model
    ]
    if tokens := [answer["tokens"] for answer in kept if answer.get("tokens")]:
        each = sum(tokens) / len(tokens)
        said += f" The {len(tokens)} kept ones took {each:.0f} tokens each: these would take {questions * each:.0f}."
    return said


def _messages(question: Question) -> list[dict]:
    content: list[dict] = [{"type": "text", "text": question.text}]
    for label, picture in question.pictures:
        address = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        content += [{"type": "text", "text": label}, {"type": "image_url", "image_url": {"url": address}}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def _kept(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
