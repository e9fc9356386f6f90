"""Reports: intervals, comparisons item by item, and pages that hold what they should."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluated import noisy, save, scene
from liveditor_isa.evaluation.benches.bench import Bench
from liveditor_isa.evaluation.catalogue import described
from liveditor_isa.evaluation.frames import read_video
from liveditor_isa.evaluation.items import Item, ItemSet
from liveditor_isa.evaluation.records import Run, Settings
from liveditor_isa.evaluation.report import tables
from liveditor_isa.evaluation.report.pages import _beside, write_report
from liveditor_isa.evaluation.report.render import html, markdown
from liveditor_isa.evaluation.report.statistics import estimate, paired
from liveditor_isa.evaluation.results import Results, Scored
from setup import BROWSER


def results(tmp_path, label="run", **values) -> Results:
    """values: {item: {column: number}}; tasks alternate."""
    scored = [Scored(Item(id, "x", task=f"t{at % 2}"), "e", found) for at, (id, found) in enumerate(values.items())]
    items = ItemSet("set", tuple(one.item for one in scored))
    return Results(Run(tmp_path / label), Settings("x", None, label, "corrected", "crop"), items, tuple(scored))


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate([*values])
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)
    assert estimate([*values]) == found and estimate([5.0]) == estimate([5.0, 5.0][:1])
    with pytest.raises(ValueError):
        estimate([])


def test_items_are_compared_with_themselves():
    """Differences of 1 among values that spread over 100: by pairs they are sure."""
    first = {str(n): float(n) for n in range(100)}
    pairs = paired(first, {id: value + 1 + 0.1 * (n % 2) for n, (id, value) in enumerate(first.items())} | {"more": 5.0})
    assert 1 < pairs.difference.low <= pairs.difference.high < 1.1 and (pairs.above, pairs.below) == (100, 0)
    assert pairs.difference.count == 100 and paired({"a": 1.0}, {"b": 1.0}) is None


def test_what_is_better_follows_from_the_metric(tmp_path):
    one = results(tmp_path, a={"psnr_source": 20.0, "mse_source": 0.1}, b={"psnr_source": 22.0, "mse_source": 0.2})
    two = results(tmp_path, a={"psnr_source": 21.0, "mse_source": 0.2}, b={"psnr_source": 23.0, "mse_source": 0.3})
    rows = {row[0]: row for row in tables.comparison(one, two, described()).rows}
    assert rows["psnr_source"][-1] == "better" and rows["mse_source"][-1] == "worse"
    same = {row[0]: row[-1] for row in tables.comparison(one, one, described()).rows}
    assert set(same.values()) == {"no clear difference"}


def test_one_item_has_no_verdict(tmp_path):
    """It was "worse" by a single difference."""
    first, second = (results(tmp_path, label, x={"psnr_source": value}) for label, value in (("a", 30.0), ("b", 20.0)))
    (row,) = tables.comparison(first, second, described()).rows
    assert row == ("psnr_source", "-10", "–", "0 / 1", "1", "no clear difference")


def test_scores_of_other_models_and_other_ways_are_not_compared_silently(tmp_path):
    """A judge's with another judge's, say."""
    first, second = (results(tmp_path, label, x={"judge_quality": 1.0, "psnr_source": 1.0}) for label in "ab")
    for found, judge in ((first, "1, small"), (second, "1, large")):
        found.scored[0].stamps.update(judge_quality=judge, psnr_source="1")
    table = tables.comparison(first, second, described())
    verdicts = {row[0]: row[-1] for row in table.rows}
    assert verdicts == {"judge_quality": "another model or version", "psnr_source": "no clear difference"}
    assert "unlike judges" in table.notes[1]
    stretched = replace(second, settings=replace(second.settings, alignment="stretch"))
    assert "corrected and stretch" in tables.comparison(first, stretched, described()).notes[-1]


def test_a_benchs_table_says_how_many_items_lack_scores(tmp_path):
    """Where a judge failed, and other measures did not, it passed for the whole set."""
    found = results(tmp_path, a={"x": 1.0}, b={"psnr_source": 1.0}, c={"x": 1.0})
    bench = Bench("b", "B", "", lambda folder, subset: [], lambda scored, mode: {"x": 1.0})
    assert "lack scores" not in str(tables.of_bench(found, bench))
    found.scored[1].missing["judge"] = "It answers 429."
    assert tables.of_bench(found, bench)[0].notes[1].startswith("1 items lack scores")


def test_missing_values_are_left_out_of_means_and_counted(tmp_path):
    found = results(tmp_path, a={"x": 1.0}, b={"x": 3.0}, c={})
    (everything, *_) = tables.means(found)
    assert everything.rows[0][:2] == ("x", "2") and everything.rows[0][3] == "2 of 3"
    assert "2 of 3 items have scores" in tables.coverage(found).notes[0]


def test_rows_of_other_sets_stand_in_tables_of_their_own(tmp_path, monkeypatch):
    parts = [{"set": name, "items": count, "source": "a paper", "columns": ["x"], "rows": [{"method": name, "values": [1.0]}]}
             for name, count in (("A", "200"), ("B", "160"))]  # fmt: skip
    bench = Bench("b", "B", "", lambda *_: [], lambda *_: {"x": 2.0})
    monkeypatch.setattr(Bench, "published", lambda self: parts)
    titles = [table.title for table in (*tables.of_bench(results(tmp_path, a={"x": 2.0}), bench), *tables.published(bench))]
    assert titles == ["B: run", "B, published: A", "B, published: B"]
    assert "not comparable" in tables.published(bench)[0].notes[0]


def test_texts_are_escaped():
    table = tables.Table("<b>", ("a|b",), (("x|<script>",),), ("& so",))
    assert "&lt;script&gt;" in html([table]) and "<script>" not in html([table]) and "&amp; so" in html([table])
    assert "a\\|b" in markdown([table]) and "x\\|<script>" in markdown([table])


@pytest.fixture
def written(tmp_path):
    source, _ = scene()
    paths = {name: str(save(tmp_path / name, video)) for name, video in (("source", source), ("edit", noisy(source)))}
    item = Item("clip", paths["source"], 'Say "<hello>"', reference=paths["source"], task="say")
    other = Item("other", paths["source"], "Do nothing", task="rest")
    scored = (
        Scored(item, paths["edit"], {"psnr_source": 21.5}, {"vmaf_neg_source": "ffmpeg lacks libvmaf."}, {"judge_pair": "It says <hello>."}),
        Scored(other, None),
    )  # fmt: skip
    settings = Settings(str(tmp_path / "set.jsonl"), None, "mine", "corrected", "crop")
    found = Results(Run(tmp_path / "run"), settings, ItemSet("set", (item, other)), scored)
    return write_report(found, described(), {}), found


def test_pages_hold_videos_side_by_side_scores_words_and_gaps(written):
    index, found = written
    page = (index.parent / "items/clip.html").read_text(encoding="utf-8")
    assert "<hello>" not in page and "It says &lt;hello&gt;." in page and "21.5" in page and "ffmpeg lacks libvmaf." in page
    address = re.search(r'src="([^"]+)"', page)[1]
    video = read_video(str(index.parent / "items" / address)).frames
    assert video.shape[1] >= 240 and video.shape[2] == 3 * video.shape[1] * 128 // 96
    assert "There is no edit" in (index.parent / "items/other.html").read_text(encoding="utf-8")
    stored = json.loads((index.parent / "report.json").read_text(encoding="utf-8"))
    assert stored["means"]["all"]["psnr_source"]["mean"] == 21.5 and stored["items"]["items"] == 2
    assert [path.name for path in index.parent.rglob(".*")] == []


def test_the_first_page_leads_to_its_tables_and_lists_items_with_their_scores(written):
    index, found = written
    page = index.read_text(encoding="utf-8")
    assert set(re.findall(r'href="#([^"]+)"', page)) <= (ids := set(re.findall(r'id="([^"]+)"', page)))
    assert {"all-items-2", "by-kind-of-edit", "coverage", "items"} <= ids
    listed = page[page.index('id="items"') :]
    assert "<th>psnr_source</th><th>missing</th>" in listed and "<td>21.5</td><td>1</td>" in listed
    assert "<td>–</td><td></td>" in listed  # the item without an edit
    kinds = re.findall(r"<details><summary><h2[^>]*>([^<]+)</h2>", page)
    assert kinds == ["say (1)"] and ">All items (2)</h2></summary>" not in page


def test_a_video_is_made_once_and_anew_for_another_edit(written):
    index, found = written
    (video,) = (index.parent / "videos").iterdir()
    before = video.stat().st_mtime_ns
    write_report(found, described(), {})
    assert video.stat().st_mtime_ns == before
    save(index.parent.parent.parent / "edit", scene(3)[0])
    write_report(found, described(), {})
    (newer,) = (index.parent / "videos").iterdir()
    assert newer.name != video.name


@pytest.mark.parametrize(("height", "width", "shown"), [(1, 96, (256, 288 * 256)), (300, 1, (600, 6)), (241, 5, (240, 12))])
def test_videos_of_any_size_lie_beside_each_other(height, width, shown):
    """Of frames one pixel high it never came to an end."""
    videos = [torch.zeros(2, height, width, 3, dtype=torch.uint8)] * 3
    assert next(_beside(videos)).shape == (2, *shown, 3)


def test_a_video_that_cannot_be_shown_leaves_a_page_without_one(tmp_path):
    """Frames of two sizes ended the whole report, and so did a width that no player takes, and a rate near 0."""
    source, _ = scene()
    paths = {name: str(save(tmp_path / name, source)) for name in ("source", "torn")}
    shutil.copy(save(tmp_path / "small", source[:, ::2, ::2]) / "00000.png", tmp_path / "torn/00001.png")
    paths["wide"] = str(save(tmp_path / "wide", source[:1, :1]))
    items = tuple(Item(id, paths["source"], "Do it", facts={"fps": 0.0001}) for id in ("torn", "wide", "slow"))
    scored = tuple(Scored(item, edit) for item, edit in zip(items, (paths["torn"], paths["wide"], paths["source"])))
    settings = Settings(str(tmp_path / "set.jsonl"), None, "mine", "corrected", "crop")
    pages = (
        write_report(Results(Run(tmp_path / "run"), settings, ItemSet("set", items), scored), described(), {}).parent / "items"
    )
    torn, wide, slow = ((pages / f"{item.id}.html").read_text(encoding="utf-8") for item in items)
    assert "cannot be shown: " in torn and "has another size than 00000.png" in torn
    assert "cannot be shown: " in wide and "<video" not in wide and "<video" in slow
    assert not [*pages.parent.glob("videos/.*")]


def test_pages_show_in_a_browser_what_they_say(written):
    """Chromium: the video has pictures of both, links lead there and back."""
    sync = pytest.importorskip("playwright.sync_api")
    if not shutil.which(BROWSER):
        pytest.skip(f"no {BROWSER}")
    index, _ = written
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(index.as_uri())
        assert page.title() == "mine: set"
        page.click(".contents >> text=/^Items$/")
        assert page.url.endswith("#items")
        kind = page.locator("details table")
        assert not kind.is_visible()
        page.click("text=say (1)")
        assert kind.is_visible()
        page.click("a >> text=clip")
        page.wait_for_function("document.querySelector('video').readyState >= 2")
        assert page.evaluate("document.querySelector('video').videoWidth") == 3 * 128 * 4
        page.click("text=all items")
        assert page.url.endswith("index.html")
        browser.close()
