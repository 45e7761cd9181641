"""The page of a run in a real browser, opened from the disk: it plays, seeks, filters, edits and saves, and is safe."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_tools as tools
import pytest
from browser_tools import Browser, needs_chromium
from table_tools import read_as

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.metrics.diagnosis import KINDS
from tad.page import write
from tad.page.costs import MISSED
from tad.provenance.stamps import read_stamp

ASSETS = write.ASSETS
TABLE = tools.hostile_table()
FOUND = {"toy": tools.detect(TABLE, 1), "other": tools.detect(TABLE, 2)}
SHOWN = "TAD.lanes.list"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    return tools.make_page(folder, TABLE, FOUND)


@pytest.fixture(scope="module")
def started(made: Path, folder: Path) -> Iterator[Browser]:
    with Browser(folder / "profile", folder / "downloads") as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, made: Path) -> Iterator[Browser]:
    """The page as on a first visit; nothing may have been reported at the end."""
    started.open(f"file://{made}/index.html")
    started.run("localStorage.clear()")
    started.open("about:blank")
    started.open(f"file://{made}/index.html")
    started.wait("TAD.state.video === 0 && TAD.lanes.painted")
    started.messages.clear()
    yield started
    assert started.messages == []


def put(browser: Browser, field: str, value: float, *, event: str = "input") -> None:
    """Set a field as a user does."""
    script = f"const e = document.getElementById({field!r}); e.value = {value}; e.dispatchEvent(new Event({event!r}))"
    browser.run(f"(() => {{ {script}; }})()")


def choose(browser: Browser, video_id: str) -> None:
    browser.run(f"(() => {{ const v = TAD.index.videos.findIndex((one) => one.id === {video_id!r});"
                " document.getElementById('video').value = v;"
                " document.getElementById('video').dispatchEvent(new Event('change')); })()")  # fmt: skip
    browser.wait(f"TAD.index.videos[TAD.state.video].id === {video_id!r} && TAD.lanes.list.length")


PLAYABLE = "video_3 <b>&"


@needs_chromium
def test_it_plays_and_seeks_by_click_and_by_frame(browser: Browser) -> None:
    choose(browser, PLAYABLE)
    browser.wait("document.getElementById('player').readyState >= 2")
    assert browser.run("document.getElementById('player').videoHeight") == 72
    assert browser.run("document.getElementById('player').duration") == pytest.approx(tools.SECONDS, abs=0.1)
    box = browser.run("(() => { const b = document.getElementById('canvas').getBoundingClientRect();"
                      " return [b.left, b.top, b.width]; })()")  # fmt: skip
    browser.click((box[0] + 8 + (box[2] - 16) * 0.5, box[1] + 8))
    browser.wait("Math.abs(document.getElementById('player').currentTime - 6) < 0.05")
    before = browser.run("TAD.state.time")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    assert browser.run("TAD.state.time") == pytest.approx(before + 2 / tools.RATE, abs=1.01 / tools.RATE / 2)
    browser.key("ArrowLeft", modifiers=8)
    assert browser.run("TAD.state.time") == pytest.approx(before + 2 / tools.RATE - 1, abs=0.03)
    browser.run("TAD.lanes.zoomBy(3)")  # the most is 400 pixels a second, which depends on the window's width
    assert browser.run("TAD.lanes.zoom") == 3
    browser.key(" ")
    browser.wait("!document.getElementById('player').paused && TAD.state.time > 5.4")
    browser.key(" ")


@needs_chromium
def test_every_frame_of_the_copy_is_reached(browser: Browser) -> None:
    """Frame steps show different pictures: the copy's time stamps and the steps agree."""
    choose(browser, PLAYABLE)
    browser.wait("document.getElementById('player').readyState >= 2")
    script = """(async () => {
      const player = document.getElementById('player'), canvas = document.createElement('canvas');
      canvas.width = 96; canvas.height = 72;
      const pen = canvas.getContext('2d', {willReadFrequently: true}), seen = [];
      for (let k = 0; k < 12; k += 1) {
        const times = await new Promise((done) => {
          player.requestVideoFrameCallback((_, facts) => done(facts.mediaTime));
          document.getElementById('forward').click();
        });
        seen.push(times);
      }
      return seen;
    })()"""
    times = browser.run(script)
    assert times == pytest.approx([(k + 1) / tools.RATE for k in range(12)], abs=0.004)


@needs_chromium
def test_filters_by_score_class_and_run(browser: Browser) -> None:
    choose(browser, PLAYABLE)
    wanted = FOUND["toy"][PLAYABLE]
    for least in (0.0, 0.5, 0.9):
        put(browser, "score", least)
        assert browser.run(f"{SHOWN}[1].items.length") == sum(e["score"] >= least for e in wanted)
    put(browser, "score", 0)
    label = wanted[0]["label"]
    put(browser, "label", TABLE.labels.index(label), event="change")
    assert browser.run(f"{SHOWN}[1].items.length") == sum(e["label"] == label for e in wanted)
    own = [i for i in TABLE.videos[PLAYABLE].instances if i.label == label]
    assert browser.run(f"{SHOWN}[0].items.map((i) => [i.s, i.e])") == [[i.start, i.end] for i in own]
    browser.run("document.querySelectorAll('#toggles input')[0].click()")
    assert browser.run(f"{SHOWN}.length") == 2
    assert browser.run(f"{SHOWN}[1].title").startswith("other:")


@needs_chromium
def test_videos_of_other_splits_are_shown_and_marked(browser: Browser) -> None:
    options = browser.run("[...document.getElementById('video').options].map((option) => option.textContent)")
    assert [text for text in options if "not scored" in text] == ["train 'one' · train, not scored"]
    assert len(options) == len(TABLE.videos)
    choose(browser, "train 'one'")
    assert browser.run(f"{SHOWN}.map((lane) => lane.items.length)") == [1, 0, 0]
    assert browser.run("document.getElementById('no-player').hidden") is False


@needs_chromium
def test_worst_errors_lead_to_their_segment(browser: Browser) -> None:
    errors = browser.run("TAD.index.runs[0].worst.map((e) => [e.video, e.kind, e.start, e.cost])")
    assert [e[3] for e in errors] == sorted((e[3] for e in errors), reverse=True)
    assert {e[1] for e in errors} <= {*KINDS[1:], MISSED}
    for row in range(4):
        browser.run(f"document.querySelectorAll('.errors tbody button')[{row}].click()")
        video, kind, start, _ = errors[row]
        browser.wait(f"TAD.index.videos[TAD.state.video].id === {video!r} && TAD.lanes.selected"
                     f" && Math.abs(TAD.lanes.selected.s - {start}) < 0.002")  # fmt: skip
        assert browser.run("TAD.state.time") == pytest.approx(start, abs=0.001)
        sign = browser.run("TAD.lanes.selected.sign")
        expected = {"○", "◐"} if kind == MISSED else {browser.run(f"TAD.kind({kind!r}).sign")}
        assert sign in expected


@needs_chromium
def test_every_tab_shows_its_part(browser: Browser) -> None:
    text = {}
    for tab in ("errors", "classes", "curves", "diagnosis", "facts"):
        browser.run(f"document.getElementById('tab-{tab}').click()")
        text[tab] = browser.run("document.getElementById('panel').textContent")
    score = browser.run("TAD.index.runs[0].average_mAP")
    assert f"{100 * score:.1f}" in text["classes"]
    assert "mAP over tIoU" in text["curves"]
    assert "The most costly kind of error is" in text["diagnosis"]
    assert "gone <i>: withdrawn </script>" in text["facts"]
    assert "activitynet" in text["facts"]


def saved(browser: Browser, folder: Path) -> Table:
    """Save the labels by the button, and read the downloaded file as a data set."""
    path = folder / "downloads" / "toy-labels.csv"
    path.unlink(missing_ok=True)
    browser.run("document.getElementById('save').click()")
    browser.wait("TAD.lastSaved")
    text = browser.run("TAD.lastSaved")
    browser.run("TAD.lastSaved = ''")
    for _ in range(100):
        if path.is_file() and path.read_bytes() == text.encode():
            break
        browser.run("new Promise((done) => setTimeout(done, 50))")
    with pytest.raises(TadError, match="the column 'unit' says seconds, but the setting unit says frames"):
        read_as("csv", path, unit="frames")
    return read_as("csv", path)


def rows(table: Table, video_id: str) -> list[tuple[float, float, str]]:
    return [(i.start, i.end, i.label) for i in table.videos[video_id].instances]


@needs_chromium
def test_unchanged_labels_are_saved_as_they_were(browser: Browser, folder: Path) -> None:
    """Also of other splits, with hostile names: what is saved trains as before."""
    found = saved(browser, folder)
    assert set(found.videos) == set(TABLE.videos)
    for video_id, video in TABLE.videos.items():
        assert rows(found, video_id) == rows(TABLE, video_id)
        assert (found.videos[video_id].split, found.videos[video_id].duration) == (video.split, video.duration)


def place(browser: Browser, number: int) -> dict[str, float]:
    spot: dict[str, float] = browser.run(f"TAD.lanes.placeOf({SHOWN}[0].items[{number}], {SHOWN}[0])")
    return spot


@needs_chromium
def test_edits_are_saved_and_undone(browser: Browser, folder: Path) -> None:
    choose(browser, PLAYABLE)
    browser.key("e")
    first = browser.run(f"(({{s, e}}) => [s, e])({SHOWN}[0].items[0])")
    spot = place(browser, 0)
    browser.drag((spot["right"] - 1, spot["y"]), (spot["right"] + 60, spot["y"]))  # the end moves
    per_pixel = tools.SECONDS / (browser.run("document.getElementById('canvas').clientWidth") - 16)
    longer = browser.run("TAD.lanes.selected.e")
    assert longer == pytest.approx(first[1] + 61 * per_pixel, abs=2 * per_pixel)
    assert browser.run("TAD.state.time") == pytest.approx(longer, abs=0.02)
    browser.run(
        "document.getElementById('relabel').value = 'new, \"label\"'; document.getElementById('set-label').click()"
    )
    found = saved(browser, folder)
    expected = [(first[0], longer, 'new, "label"'), *rows(TABLE, PLAYABLE)[1:]]
    assert sorted(rows(found, PLAYABLE)) == sorted(expected)
    browser.run("document.getElementById('scroller').focus()")
    browser.key("Delete")
    assert len(rows(saved(browser, folder), PLAYABLE)) == len(expected) - 1
    spot, left = place(browser, 0), browser.run("document.getElementById('canvas').getBoundingClientRect().left")
    browser.drag((left + 10, spot["y"]), (left + 10 + (spot["left"] - left) / 2, spot["y"]))  # in the empty part
    assert browser.run("TAD.labels.of(TAD.index.videos[TAD.state.video].id).length") == len(expected)
    browser.run("document.getElementById('scroller').focus()")
    for _ in range(4):
        browser.key("z", modifiers=2)
    assert rows(saved(browser, folder), PLAYABLE) == rows(TABLE, PLAYABLE)
    browser.key("z", modifiers=10)
    assert len({longer} & {end for _, end, _ in rows(saved(browser, folder), PLAYABLE)}) == 1


@needs_chromium
def test_detections_become_drafts_that_are_saved_when_accepted(browser: Browser, folder: Path) -> None:
    empty = "video_0 <b>&"  # without any instance
    choose(browser, empty)
    put(browser, "score", 0)
    browser.key("e")
    browser.run("document.getElementById('take').click()")
    drafts = browser.run("TAD.labels.of(TAD.index.videos[TAD.state.video].id).filter((i) => i.d).length")
    assert drafts > 3
    assert rows(saved(browser, folder), empty) == []
    browser.key("ArrowDown")
    browser.wait("TAD.lanes.selected")
    browser.run(f"TAD.lanes.selected = {SHOWN}[0].items[0]")
    browser.key("Enter")
    assert len(rows(saved(browser, folder), empty)) == 1
    browser.run("document.getElementById('with-drafts').click()")
    assert len(rows(saved(browser, folder), empty)) == drafts


@needs_chromium
def test_a_closed_page_keeps_its_edits(browser: Browser, made: Path, folder: Path) -> None:
    choose(browser, PLAYABLE)
    browser.key("e")
    browser.run(f"TAD.lanes.selected = {SHOWN}[0].items[1]")
    browser.key("Delete")
    expected = rows(TABLE, PLAYABLE)[:1] + rows(TABLE, PLAYABLE)[2:]
    browser.open("about:blank")
    browser.open(f"file://{made}/index.html")
    browser.wait("TAD.state.video === 0")
    assert rows(saved(browser, folder), PLAYABLE) == expected
    browser.run("TAD.labels.forget()")
    assert rows(saved(browser, folder), PLAYABLE) == rows(TABLE, PLAYABLE)


@needs_chromium
def test_hostile_labels_and_names_are_text(browser: Browser) -> None:
    assert len(tools.HOSTILE) >= 10
    elements = "document.querySelectorAll('*').length"
    for video in range(4):
        browser.run(f"document.getElementById('video').value = {video};"
                    " document.getElementById('video').dispatchEvent(new Event('change'))")  # fmt: skip
        browser.wait(f"TAD.state.video === {video}")
        for tab in ("errors", "classes", "curves", "diagnosis", "facts"):
            browser.run(f"document.getElementById('tab-{tab}').click()")
        put(browser, "score", 0)
        for _ in range(3):
            browser.key("ArrowDown")
    assert browser.run("window.harmed") is None
    assert browser.run(
        "[...document.querySelectorAll('script')].every((s) => /^(assets|data)\\//.test(s.getAttribute('src')))"
    )
    assert browser.run("document.querySelectorAll('img, iframe, object, [onerror], [onload]').length") == 0
    assert browser.run(elements) > 100
    text = browser.run("document.body.innerText")
    assert "\u202e" not in text
    options = browser.run("[...document.getElementById('label').options].map((o) => o.text)")
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+2066⟩isolate⟨U+2069⟩" in options


@needs_chromium
def test_a_phone_does_not_scroll_sideways(browser: Browser) -> None:
    browser.screen(390, 844, phone=True, scale=2)
    long = f"results/videos/{'a_long_name_' * 9}.avi: header states 73 frames"
    browser.run(f"TAD.index.runs[0].warnings.push({long!r})")
    browser.key("e")
    for tab in ("errors", "classes", "curves", "diagnosis", "facts"):
        browser.run(f"document.getElementById('tab-{tab}').click()")
        assert browser.run("document.documentElement.scrollWidth") <= 390, tab
    browser.screen(1280, 900)


@needs_chromium
def test_a_script_in_the_page_is_refused(browser: Browser) -> None:
    """The second line of defence: even markup that reached the page could not run."""
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = 9\">')")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("window.harmed") is None
    assert any("Content Security Policy" in message for message in browser.messages)
    browser.messages.clear()


def test_scripts_never_write_html() -> None:
    for name in write.SCRIPTS:
        text = (ASSETS / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(.on", text
        ), name
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text


def task_seconds(browser: Browser) -> float:
    """CPU seconds of the page's main thread."""
    found = browser.call("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in found if metric["name"] == "TaskDuration"))


@needs_chromium
def test_a_thousand_detections_scroll_smoothly(folder: Path, tmp_path: Path) -> None:
    """Frames take less than 20 ms of CPU time each: fifty a second."""
    labels = tuple(f"class {k}" for k in range(20))
    table = tools.hostile_table(labels, videos=2)
    page = tools.make_page(
        tmp_path, table, {"toy": tools.detect(table, 3, per_video=1000)}, media=False, detections=1000
    )
    with Browser(tmp_path / "profile", tmp_path) as browser:
        browser.open(f"file://{page}/index.html")
        browser.wait("TAD.lanes.painted")
        put(browser, "score", 0)
        assert browser.run(f"{SHOWN}[1].items.length") == 1000
        browser.call("Performance.enable", timeDomain="threadTicks")  # CPU time of the page's thread, whatever the load
        before, drawn = task_seconds(browser), browser.run("TAD.lanes.painted")
        browser.run("""(async () => {
          const scroller = document.getElementById('scroller');
          TAD.lanes.zoomBy(6);
          for (let k = 0; k < 120; k += 1) {
            scroller.scrollLeft += 11; scroller.scrollTop += 5;
            await new Promise((done) => requestAnimationFrame(done));
          }
        })()""")
        frames = browser.run("TAD.lanes.painted") - drawn
        assert frames > 60
        assert (task_seconds(browser) - before) / frames < 1 / 50
        assert browser.messages == []


def test_the_folder_is_small_stamped_and_replaced_at_once(made: Path, folder: Path, tmp_path: Path) -> None:
    size = sum(p.stat().st_size for p in made.rglob("*") if p.is_file() and p.parent.name != "media")
    assert size < 1_000_000
    assert read_stamp(made)["stage"] == "page"
    assert not list(folder.glob(".page.partial*"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(TadError, match=r"mine: exists and is not an earlier page.*another folder"):
        write.write_page(tmp_path / "mine", "t", {"videos": [], "labels": []}, [], [], media={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_copies_are_used_again(made: Path, folder: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()}
    assert len(kept) >= 1
    names = list(FOUND)
    tools.page(
        [folder / f"{name}.json" for name in names], folder / "toys.json", [folder / f"{n}.map.json" for n in names],
        folder / "again", spec=tools.page_spec(tuple(names)), cache=folder / "kept", videos=folder / "videos",
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()} == kept


def test_inputs_of_other_runs_are_refused(made: Path, folder: Path) -> None:
    inputs: dict[str, Any] = {"annotations": folder / "toys.json", "out": folder / "wrong", "cache": folder / "kept"}
    with pytest.raises(TadError, match="1 detections and 1 scores for 2 runs"):
        tools.page(
            [folder / "toy.json"], scores=[folder / "toy.map.json"], spec=tools.page_spec(("toy", "other")), **inputs
        )
    with pytest.raises(TadError, match="run='other', expected run='toy'"):
        tools.page([folder / "toy.json"], scores=[folder / "other.map.json"], spec=tools.page_spec(("toy",)), **inputs)
    assert not (folder / "wrong").exists()
    assert read_json(folder / "toy.json")["results"] == FOUND["toy"]
