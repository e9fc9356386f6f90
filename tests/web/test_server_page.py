"""The server's page in a real Chromium: an edit made, watched and cancelled there."""

import pytest

pytest.importorskip("gradio", reason="the serve extra is not installed")

from edit_server import serving, write_clip  # noqa: E402
from waiting import until  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.browser]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "jobs", page=True) as running:
        yield running


@pytest.fixture
def page(browser, server):
    """Any uncaught error, and any request to another host, fails the test."""
    client, _ = server
    errors, elsewhere = [], []
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: elsewhere.append(request.url))
    page.goto(str(client.base_url))
    page.wait_for_selector("#edit")
    yield page
    page.close()
    assert not errors
    assert not [url for url in elsewhere if not url.startswith((str(client.base_url), "data:", "blob:"))]


def test_the_endpoint_answers_in_its_own_form(server):
    client, _ = server
    for answer in (client.get("/v1/nothing"), client.post("/v1/videos/edit")):
        assert answer.status_code == 404 and "There is no address" in answer.json()["error"]["message"]
    assert client.get("/v1/models").status_code == 200


def begin(page, clip, prompt: str):
    page.set_input_files("#source input[type=file]", clip)
    page.wait_for_selector("#source video")
    page.fill("#prompt textarea", prompt)
    page.click("#edit")


def test_an_edit_is_made_and_shown(page, server, tmp_path):
    client, engine = server
    begin(page, write_clip(tmp_path / "holiday.mp4"), "slowly 3")
    page.wait_for_function("() => /Editing: [1-9]/.test(document.querySelector('#words').innerText)", timeout=60_000)
    page.wait_for_selector("#result video", timeout=60_000)
    page.wait_for_function("() => document.querySelector('#result video').videoWidth === 48", timeout=30_000)
    page.screenshot(path=tmp_path / "page.png")
    link = page.get_attribute("#words a", "href")
    assert "Done" in page.inner_text("#words")
    content = client.get(link if link.startswith("/") or "://" in link else f"/{link}").content
    assert [engine.jobs.result(job.id).read_bytes() for job in engine.of("")] == [content]


def test_an_edit_is_cancelled(page, server, tmp_path):
    client, engine = server
    before = len(engine.of(""))
    begin(page, write_clip(tmp_path / "holiday.mp4"), "slowly 60")
    page.wait_for_function("() => /Editing/.test(document.querySelector('#words').innerText)", timeout=60_000)
    page.click("#cancel")
    page.wait_for_function("() => /Cancelled/.test(document.querySelector('#words').innerText)", timeout=60_000)
    until(lambda: client.get("/health").json()["in_progress"] == 0 and len(engine.of("")) == before)


def test_what_is_wrong_is_said(page, tmp_path):
    begin(page, write_clip(tmp_path / "long.mp4", 9), "at once")
    page.wait_for_selector("text=more than the 8 frames", timeout=60_000)
    page.fill("#prompt textarea", "")
    page.click("#edit")
    page.wait_for_selector("text=The prompt is empty", timeout=60_000)
