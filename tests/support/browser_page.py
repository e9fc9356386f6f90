"""ComfyUI's page in a real Chromium: opening it, workflows in it, and what its nodes hold."""

import base64
import time
from contextlib import contextmanager

WAYS = ["canvas nodes", "Vue nodes"]
"""Of drawing nodes."""

STILL = """addEventListener('DOMContentLoaded', () => {
    const style = document.createElement('style');
    style.textContent = '*, *::before, *::after { animation: none !important; transition: none !important }';
    document.head.append(style);
})"""
"""Drawn without a GPU, what moves while a workflow runs takes most of a core, and nothing of it is tested."""


@contextmanager
def opened_page(browser, server, way: str):
    """Any uncaught error fails the test."""
    errors = []
    page = open_page(browser, server, way == "Vue nodes", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


def open_page(browser, server, vue: bool, on_error=lambda error: None):
    """Without its first-run dialogs."""
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue})
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.add_init_script(STILL)
    page.on("pageerror", on_error)
    page.goto(server.url)
    page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=60_000)
    page.wait_for_selector("canvas")
    page.wait_for_function(OPENED, timeout=60_000)
    return page


OPENED = """before => {
    const { activeWorkflow } = window.app.extensionManager.workflow;
    return activeWorkflow?.activeState?.id === window.app.rootGraph.id && activeWorkflow.path !== before
        && !window.comfyAPI.changeTracker.ChangeTracker.isLoadingGraph;
}"""
"""Whether the page is done with opening a workflow: it shows the nodes long before, under the name of the workflow that it leaves."""


def drop(page, path, mime: str):
    """Drop a file on the canvas, as from the desktop, and wait for its workflow."""
    before = page.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path")
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([content, name, type]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            const target = document.querySelector('#graph-canvas') ?? document.querySelector('canvas');
            for (const kind of ['dragenter', 'dragover', 'drop'])
                target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }""",
        [content, path.name, mime],
    )
    page.wait_for_function(OPENED, arg=before, timeout=60_000)


def node_types(page) -> list[str]:
    return sorted(page.evaluate("() => window.app.graph.nodes.map(node => node.type)"))


def wait_for_nodes(page, count: int):
    page.wait_for_function("count => window.app.graph.nodes.length === count", arg=count, timeout=60_000)


def set_widgets(page, changes: dict):
    """changes: {node type: {widget: value}}."""
    page.evaluate(
        """changes => {
            for (const [type, values] of Object.entries(changes)) {
                const node = window.app.graph.nodes.find(node => node.type === type);
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find(widget => widget.name === name);
                    widget.value = value;
                    widget.callback?.(value);
                }
            }
        }""",
        changes,
    )


def prompt_of(page) -> dict:
    """The prompt that the page would queue."""
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    for node in prompt.values():
        node["inputs"].pop("video-preview", None)  # the page's own, unknown to the server
    return prompt


LOOK_EVERY = 100
"""Milliseconds between two looks of the panel at its widgets (web/attach_isa.js)."""


def after_looks(page, count: int):
    """Once the panel has looked so many times: by a timer of the page's own, which is as slow as the panel's on a busy machine.

    For what is not to happen, and so cannot be waited for.
    """
    page.evaluate(
        """([count, every]) => new Promise(done => {
            const timer = setInterval(() => count-- > 0 || (clearInterval(timer), done()), every);
        })""",
        [count, LOOK_EVERY],
    )


def after_frames(page, count: int = 2):
    """Once the page has drawn so often."""
    page.evaluate(
        """count => new Promise(done => {
            const next = () => (count-- > 0 ? requestAnimationFrame(next) : done());
            next();
        })""",
        count,
    )


def click_until(click, opened, wait: int = 8_000):
    """Click until what the click opens is there, as users do: on a busy page the button is down so long that the canvas takes the
    click for a drag. `opened` waits for it, at most `wait` milliseconds after each of four clicks."""
    from playwright.sync_api import TimeoutError as TookTooLong  # optional: `make setup` alone does not bring it

    for _ in range(4):
        click()
        try:
            return opened(wait)
        except TookTooLong:
            continue
    raise AssertionError("four clicks opened nothing")


def from_menu(page, find: str, item: str, inner: str | None = None):
    """Choose an item of a node's menu, or an inner one of that, as users do: by a right click on its title. find: which node, in JavaScript."""
    place = page.evaluate(
        f"""() => {{
            const {{ canvas, ds }} = window.app.canvas, node = window.app.graph.nodes.find({find});
            ds.scale = 1;
            ds.offset = [600 - node.pos[0], 200 - node.pos[1]];
            window.app.canvas.setDirty(true, true);
            const box = canvas.getBoundingClientRect();
            return [box.left + 600 + 60, box.top + 200 - 15];
        }}"""
    )
    after_frames(page)
    chosen = page.get_by_text(item, exact=True).last
    click_until(lambda: page.mouse.click(*place, button="right"), lambda ms: chosen.wait_for(timeout=ms))
    if inner is None:
        return chosen.click()
    # The two ways of drawing nodes have different menus.
    chosen.hover() if page.evaluate("() => window.LiteGraph.vueNodesMode") else chosen.click()
    page.get_by_text(inner, exact=True).filter(visible=True).last.click()


def wait_until(page, true, seconds: float = 60):
    """Until `true()` is, which may be of the page or of what it told this process."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        page.wait_for_timeout(20)  # has Playwright deliver the page's events, which time.sleep does not
