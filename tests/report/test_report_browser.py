"""The page in headless Chromium: filters, keys, hostile answers, no requests, flips, dark and phone."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_mocks import images, make_items, make_run, metric, sha, shapes_run, write_bundle

from armor_eval.report.loading import load_runs
from armor_eval.report.page import Headline, render_page
from armor_eval.report.viewer import Flip
from armor_eval.runs.schema import Item

pytestmark = pytest.mark.browser

HOSTILE = '</script><script>window.hacked=1</script><img src="http://example.com/x.png" onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def driver() -> Iterator:
    """A fresh headless Chromium; its absence fails the test, since these run only where it is asked for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    browser, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    assert browser and service, "Chromium is missing: apt-get install chromium chromium-driver"
    options = Options()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(service))
    yield made
    made.quit()


def opened(driver, page: Path):
    """Load a page and wait for its viewer; returns a function that runs JavaScript in it."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get_log("performance"), driver.get_log("browser")
    driver.get(page.as_uri())
    WebDriverWait(driver, 60).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready") == "yes"
    )
    return driver.execute_script


def requests_of(driver) -> list[str]:
    """Every address the page asked for since it was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def choose(js, element: str, value: object) -> float:
    """Set one filter and return the milliseconds that it took, measured outside the page's own clock too."""
    return js(
        "const e=document.getElementById(arguments[0]);const t=performance.now();e.value=arguments[1];"
        "e.dispatchEvent(new Event('input',{bubbles:true}));document.body.offsetHeight;return performance.now()-t",
        element,
        str(value),
    )


def press(driver, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(keys).perform()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    shown = images(12)
    items = make_items(300, images=list(shown))
    bad = Item(
        id="hostile",
        cluster="h",
        prompt=HOSTILE,
        prompt_sha256=sha(HOSTILE),
        gold=HOSTILE,
        output=HOSTILE,
        parsed=HOSTILE,
        score=0.0,
        reason=HOSTILE,
        status="ok",
        output_images=[next(iter(shown)), "../../etc/passwd"],
        extras={
            "detections": {"<b>cat": [[2, 2, 20, 20, 0.9], [1, 1, 5, 5, 0.1]]},
            "colors": {"<b>cat": ["red", None]},
        },
    )
    write_bundle(folder / "a", make_run(model=HOSTILE), [metric("F1", 75.0, (70.0, 80.0))], [bad, *items], shown)
    write_bundle(
        folder / "b",
        shapes_run("s", "understanding", "SEED"),
        [metric("accuracy", 70.0, (60.0, 80.0))],
        make_items(50, 1),
    )
    out = folder / "page.html"
    out.write_text(render_page(load_runs([folder / "a", folder / "b"]), title=HOSTILE))
    return out


def test_a_script_in_an_answer_stays_text_and_nothing_is_requested(driver, page: Path) -> None:
    js = opened(driver, page)
    choose(js, "f-text", "hacked")
    assert js("return document.documentElement.dataset.found") == "1"
    assert js("return document.querySelector('#detail dd').textContent") == HOSTILE
    assert HOSTILE in js("return document.querySelector('h1').textContent")
    assert js("return window.hacked") is None
    assert js("return document.querySelectorAll('#detail script, #detail img[onerror]').length") == 0
    assert [u for u in requests_of(driver) if not u.startswith(("file://" + str(page), "data:"))] == []
    assert driver.get_log("browser") == []


def test_boxes_are_drawn_over_the_image_and_foreign_paths_are_not_read(driver, page: Path) -> None:
    js = opened(driver, page)
    choose(js, "f-text", "hacked")
    assert js("return document.querySelectorAll('#detail .pic rect').length") == 1
    assert js("return document.querySelector('#detail .pic text').textContent") == "red <b>cat"
    assert js("return document.querySelector('#detail .pic svg').getAttribute('viewBox')") == "0 0 32 32"
    assert "passwd (not in this page)" in js("return document.getElementById('detail').textContent")
    assert "root:" not in page.read_text()


def test_filters_agree_with_the_records(driver, page: Path) -> None:
    js = opened(driver, page)
    found = "return Number(document.documentElement.dataset.found)"
    assert js(found) == 351
    items = make_items(300)
    choose(js, "f-run", 0)
    assert js(found) == 301
    choose(js, "f-status", 1)
    assert js(found) == sum(i.status == "unparsed" for i in items)
    choose(js, "f-status", "")
    choose(js, "f-outcome", 2)
    assert js(found) == 1 + sum(i.score == 0 for i in items)
    choose(js, "f-outcome", 0)
    choose(js, "f-text", "q000077 RED")
    assert js(found) == int(items[77].score == 1 and "red" in items[77].prompt)
    js("document.getElementById('filters').reset()")
    driver.implicitly_wait(1)
    assert js("return new Promise(r=>setTimeout(()=>r(Number(document.documentElement.dataset.found)),50))") == 351


def test_the_keyboard_reaches_everything(driver, page: Path) -> None:
    js = opened(driver, page)
    chosen = "return Number(document.querySelector('#list [aria-selected=true]').dataset.position)"
    press(driver, "jjjk")
    assert js(chosen) == 2
    press(driver, "n")
    assert js(chosen) == 50
    press(driver, "k")
    assert js(chosen) == 49
    press(driver, "/")
    assert js("return document.activeElement.id") == "f-text"
    press(driver, "j")
    assert js("return document.getElementById('f-text').value") == "j"
    assert js("return document.activeElement.id") == "f-text"


def test_the_page_fits_a_phone_and_follows_the_dark_scheme(driver, page: Path) -> None:
    js = opened(driver, page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    assert js("return document.documentElement.scrollWidth") <= 360
    seen = set()
    for scheme in ("dark", "light"):
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        seen.add(js(ground))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(seen) == 2


def test_in_print_the_folded_slices_are_open(driver, page: Path) -> None:
    js = opened(driver, page)
    js("document.querySelectorAll('#slices details').forEach(d => d.open = false)")
    shown = "return document.querySelector('#slices table').checkVisibility()"
    assert not js(shown)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert js(shown) and js("return getComputedStyle(document.getElementById('items')).display") == "none"
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_flips_show_only_what_changed_with_both_answers(driver, tmp_path: Path) -> None:
    base, candidate = make_items(60), make_items(60, seed=5)
    write_bundle(tmp_path / "a", make_run("base"), [metric("F1", 75.0, (70.0, 80.0))], base)
    write_bundle(tmp_path / "b", make_run("cand"), [metric("F1", 70.0, (65.0, 75.0))], candidate)
    flips = []
    for one, two in zip(base, candidate, strict=True):
        if one.score is not None and two.score is not None and one.score != two.score:
            flips.append(Flip(one.id, "base", "cand", "lost" if two.score < one.score else "gained"))
    out = tmp_path / "flips.html"
    views = load_runs([tmp_path / "a", tmp_path / "b"])
    out.write_text(
        render_page(
            views, flips=flips, headline=Headline("REGRESSION", "bad", ["POPE F1 fell"]), docs=[], with_plots=False
        )
    )
    js = opened(driver, out)
    assert js("return document.querySelector('.verdict .word').textContent") == "REGRESSION"
    assert js("return Number(document.documentElement.dataset.found)") == len(flips)
    choose(js, "f-flip", 1)
    assert js("return Number(document.documentElement.dataset.found)") == sum(f.kind == "lost" for f in flips)
    assert js("return [...document.querySelectorAll('#detail .sides strong')].map(e=>e.textContent)") == [
        "base",
        "candidate",
    ]


def test_twenty_thousand_items_stay_small_and_answer_at_once(driver, tmp_path: Path) -> None:
    shown = images(400, size=256)
    items = make_items(20_000, images=list(shown), words=40)
    write_bundle(tmp_path / "big", make_run(items=20_000), [metric("F1", 75.0, (74.0, 76.0))], items, shown)
    out = tmp_path / "big.html"
    out.write_text(render_page(load_runs([tmp_path / "big"])))
    assert out.stat().st_size < 25_000_000
    js = opened(driver, out)
    assert js("return Number(document.documentElement.dataset.found)") == 20_000
    slowest = max(
        choose(js, f, v)
        for f, v in (("f-outcome", 2), ("f-text", "green cross 19"), ("f-status", 1), ("f-text", "e"), ("f-text", ""))
    )
    assert slowest < 200, f"{slowest:.0f} ms"


def test_results_and_drawings_stand_above_the_items_and_the_paper_below(driver, page: Path) -> None:
    js = opened(driver, page)
    place = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    tops = [js(place, where) for where in ("#results", "#gallery", "#items", "#paper")]
    assert tops == sorted(tops) and tops[0] < 300, "the user's own numbers are on the first screen"
    assert js("return [...document.querySelectorAll('#paper details[open]')].length") == 1, "what met a measurement"
    shown = js("return document.querySelectorAll('#gallery button').length")
    assert shown == 1 and js("return document.querySelectorAll('#gallery rect').length") == 1
    js("document.querySelector('#gallery button').click()")
    assert "hostile" in js("return document.querySelector('#detail h3').textContent")


def test_wrong_items_come_first_and_w_goes_from_one_to_the_next(driver, page: Path) -> None:
    js = opened(driver, page)
    tags = "return [...document.querySelectorAll('#list .tag')].map(e => e.textContent).slice(0, 5)"
    assert set(js(tags)) == {"wrong"}
    choose(js, "f-order", 0)
    chosen = "return document.querySelector('#list [aria-selected=true] .tag').textContent"
    for keys in ("w", "w", "W"):
        press(driver, keys)
        assert js(chosen) != "right"


def test_the_table_of_runs_sorts_and_follows_a_run_that_is_going_on(driver, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the extra `view` is not installed")
    import uvicorn
    from selenium.webdriver.support.ui import WebDriverWait

    from armor_eval.report.serve import Library, make_app

    for at, (name, value) in enumerate({"first": 71.0, "second": 69.5, "third": 90.0}.items()):
        run = make_run(name, items=6, started=f"2026-11-2{at}T00:00:00+00:00", model=HOSTILE if at else "a model")
        write_bundle(tmp_path / name, run, [metric("F1", value, (60.0, 95.0))], make_items(6))
    going = tmp_path / "going"
    write_bundle(
        going, make_run("going", items=9, status="running", started="2026-11-01T00:00:00+00:00"), [], make_items(2)
    )
    lock = (going / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    server = uvicorn.Server(uvicorn.Config(make_app(Library([tmp_path])), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        WebDriverWait(driver, 60).until(lambda _: server.started)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        driver.get(address)
        js = driver.execute_script
        column = (
            "return [...document.querySelectorAll('#all-runs tbody tr')].map(r => r.cells[arguments[0]].textContent)"
        )
        names = [f"{tmp_path.name}/{name}" for name in ("third", "second", "first", "going")]
        assert js(column, 1) == names, "newest first"
        js("document.querySelector('button[data-key=value]').click()")
        assert js(column, 1) == [names[1], names[2], names[0], names[3]], "no number stands last"
        assert js("return window.hacked") is None
        (going / "items.jsonl").write_text("".join(item.model_dump_json() + "\n" for item in make_items(5)))
        WebDriverWait(driver, 60).until(lambda _: js(column, 7)[3] == "5 of 9")
        driver.get(js("return [...document.querySelectorAll('#all-runs a')].at(-1).href"))
        WebDriverWait(driver, 60).until(lambda _: "5 of 9" in js("return document.getElementById('live').textContent"))
        with (going / "items.jsonl").open("a") as journal:
            journal.write(make_items(6)[5].model_dump_json() + "\n")
        WebDriverWait(driver, 60).until(lambda _: js("return document.querySelector('#live button')?.textContent"))
        assert json.loads(js("return document.getElementById('live').dataset.items")) == 5
        assert not [entry for entry in driver.get_log("browser") if "Content Security" in entry["message"]]
    finally:
        server.should_exit = True
        thread.join(10)
        lock.close()
