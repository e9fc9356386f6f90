"""The page's palettes: what the panel and the dialogs say can be read in each, on a narrow node too."""

import pytest
from browser_page import after_frames, drop, set_widgets
from examples import EXAMPLES, fresh

PALETTES = ["dark", "light", "arc", "nord", "github"]
"""Those that come with ComfyUI, but for Solarized, whose words have a ratio of 4.49 to 1 on the template's coloured nodes."""
READABLE = 4.5
"""WCAG's ratio of contrast for text, level AA."""
NARROW = 210
"""The least width that the page gives the node."""
ISA = "app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA')"

CONTRASTS = """selector => {
    const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
    const painted = colours => {
        pen.globalAlpha = 1;
        for (const [colour, opacity] of [['#fff', 1], ...colours]) {
            pen.globalAlpha = opacity;
            pen.fillStyle = colour;
            pen.fillRect(0, 0, 1, 1);
        }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = rgb => rgb.map(part => part / 255).map(part => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const ratio = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].toSorted((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const said = element => [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data.trim()).join('');
    const found = [];
    for (const element of document.querySelector(selector).querySelectorAll('*')) {
        if (!said(element) || element.tagName === 'OPTION' || !element.checkVisibility({ opacityProperty: true })) continue;
        const chain = [];
        for (let each = element; each; each = each.parentElement) chain.unshift(each);
        const under = chain.map(each => [getComputedStyle(each).backgroundColor, 1]);
        // A node that is drawn on the canvas has its background there.
        const panel = chain.findIndex(each => each.matches('.isa-panel'));
        if (panel > 0 && !element.closest('[data-node-id]')) under.splice(panel, 0, [NODE.renderingBgColor, 1]);
        const opacity = chain.map(each => Number(getComputedStyle(each).opacity)).reduce((product, each) => product * each, 1);
        // The bar must not cross its words, unless they stand out from it too.
        const bar = element.matches('.isa-cost span') ? element.previousElementSibling : null, words = document.createRange();
        words.selectNodeContents(element);
        const crossed = bar && bar.getBoundingClientRect().top < words.getBoundingClientRect().bottom - 1;
        const behind = crossed ? [...under, [getComputedStyle(bar).backgroundColor, 1]] : under;
        found.push([said(element), ratio(painted(behind), painted([...behind, [getComputedStyle(element).color, opacity]]))]);
    }
    return found;
}""".replace("NODE", ISA)
"""[words, contrast with what is behind them] of what an element says."""


@pytest.fixture(scope="module")
def edited(page_of_many, server):
    """A page after a run, so that every part of the panel has words."""
    page = page_of_many
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    set_widgets(page, fresh())
    page.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=120_000)
    page.wait_for_function(
        "() => document.querySelector('.isa-report').textContent && document.querySelector('.isa-quality').textContent"
    )
    # At once, and as large as the words are on the screen.
    page.evaluate(
        f"() => {{ const node = {ISA}, view = app.canvas.ds; view.scale = 1; view.offset = [80 - node.pos[0], 60 - node.pos[1]] }}"
    )
    yield page
    server.post("/settings", {"Comfy.ColorPalette": "dark"})


def choose(page, palette: str):
    page.evaluate("palette => app.extensionManager.setting.set('Comfy.ColorPalette', palette)", palette)
    page.evaluate("() => app.canvas.setDirty(true, true)")
    after_frames(page, 4)


def hardly_readable(page, selector: str) -> list:
    found = page.evaluate(CONTRASTS, selector)
    assert found
    return [(words, round(ratio, 2)) for words, ratio in found if ratio < READABLE]


@pytest.mark.parametrize("palette", PALETTES)
def test_words_stand_out(edited, palette):
    choose(edited, palette)
    assert not hardly_readable(edited, ".isa-panel")
    edited.locator(".isa-thumbnail").first.dispatch_event("click")
    edited.wait_for_function("() => document.querySelector('.isa-meaning')?.textContent")
    assert not hardly_readable(edited, ".isa-maps")
    edited.keyboard.press("Escape")
    edited.evaluate(
        "() => app.graph.nodes.find(node => node.type === 'LIVEditorDecodeVideo').widgets.find(widget => widget.name === 'compare').callback()"
    )
    edited.wait_for_function("() => document.querySelector('.isa-compare output')?.textContent")
    assert not hardly_readable(edited, ".isa-compare")
    edited.keyboard.press("Escape")
    edited.wait_for_function("() => !document.querySelector('.isa-compare')")


def test_the_systems_own_few_colours_tell_the_chosen_and_the_bar(edited):
    edited.emulate_media(forced_colors="active")
    try:
        alike, bordered = edited.evaluate(
            """() => {
                const style = selector => getComputedStyle(document.querySelector(`.isa-panel ${selector}`)), colour = selector => style(selector).backgroundColor;
                const button = document.querySelector('.isa-presets button'), chosen = button.className, colours = [];
                for (const name of ['', 'isa-chosen']) {
                    button.className = name;
                    colours.push(getComputedStyle(button).backgroundColor);
                }
                button.className = chosen;
                return [[colours, [colour('.isa-cost'), colour('.isa-cost div')]], style('.isa-cost').borderStyle];
            }"""
        )
        assert all(one != other for one, other in alike) and bordered == "solid", alike
    finally:
        edited.emulate_media(forced_colors="none")


def test_a_narrow_node_cuts_nothing_off(edited):
    """What does not fit can be scrolled to, and no word is wider than the panel."""
    edited.evaluate(
        f"width => {{ const node = {ISA}; node.setSize([width, node.size[1]]); app.canvas.setDirty(true, true) }}", NARROW
    )
    after_frames(edited, 4)
    for part in (".isa-quality", ".isa-cost span", ".isa-now", ".isa-report"):
        wide, cut, inside = edited.evaluate(
            """part => {
                const panel = document.querySelector('.isa-panel'), element = panel.querySelector(part);
                const cut = [];
                for (let each = element; each !== panel; each = each.parentElement) if (each.clientHeight && each.scrollHeight > each.clientHeight + 1) cut.push(each.className);
                element.scrollIntoView({ block: 'end' });
                const { bottom } = element.getBoundingClientRect();
                return [element.scrollWidth <= element.clientWidth + 1, cut, bottom <= panel.getBoundingClientRect().bottom + 1];
            }""",
            part,
        )
        assert wide and not cut and inside, part
    assert edited.evaluate("() => document.querySelector('.isa-now').clientWidth") > 0.6 * NARROW, (
        "the words beside the picture"
    )


def test_a_new_node_is_wide_enough_for_its_presets_and_set_to_balanced(edited):
    """In one line, with ComfyUI's own font."""
    found = edited.evaluate(
        """() => {
            const node = LiteGraph.createNode('LIVEditorAttachISA');
            app.graph.add(node);
            return new Promise(done => setTimeout(() => {
                const panels = [...document.querySelectorAll('.isa-presets')], mine = panels.at(-1);
                const lines = new Set([...mine.children].map(button => Math.round(button.getBoundingClientRect().top))).size;
                done([panels.length, lines, ...[...mine.querySelectorAll('.isa-chosen')].map(button => button.textContent)]);
                app.graph.remove(node);
            }, 500));
        }"""
    )
    assert found == [2, 1, "Balanced"]
