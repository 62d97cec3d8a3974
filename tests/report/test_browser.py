"""The report in a real browser: no errors, no requests, sorting and searching by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reranking.evaluation.run_comparison import Comparisons
from reranking.evaluation.sides import own_first_stage
from reranking.report.collect import collect
from reranking.report.page import write
from tests.support.browser import Page, chromium, find_chromium
from tests.support.reported import ATTACKS, reported

ROWS = "[...document.querySelectorAll('#moved-queries .unit')]"
SHOWN = f"{ROWS}.filter(unit => !unit.hidden)"


def cells(column: str) -> str:
    return f"{ROWS}.map(u => Number(u.querySelector('[data-column={column}]').dataset.value))"


def header(column: str) -> str:
    return f"document.querySelector('#moved-queries button[data-sort={column}]')"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = reported(folder, cross_encoder, monkeypatch)
    comparisons = Comparisons(made.database, made.run.run_id, None, "j")
    found = collect(comparisons, own_first_stage(comparisons.side.run))
    write(found, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no chromium: install Debian's `chromium`, or name one with $CHROMIUM")
    with chromium(executable, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, file: Path) -> Page:
    browser.requests.clear()
    browser.complaints.clear()
    browser.blocked.clear()
    browser.open(file.as_uri())
    return browser


def test_it_opens_without_errors_or_requests(page: Page, file: Path) -> None:
    assert page.ask("document.readyState") == "complete"
    assert page.ask("document.documentElement.classList.contains('scripted')")
    assert [url for url in page.requests if not url.startswith("data:")] == [file.as_uri()]
    assert page.complaints == []


def test_hostile_text_stays_text(page: Page) -> None:
    page.ask("document.querySelectorAll('details').forEach(d => (d.open = true))")
    assert page.ask("document.title").startswith("Reranking makes hybrid search worse")
    assert page.ask("document.querySelectorAll('script').length") == 1
    assert page.ask("document.querySelectorAll('img, iframe, base, h1 ~ h1').length") == 0
    assert page.ask("document.querySelectorAll('h1').length") == 1
    shown = page.ask("document.getElementById('moved-queries').textContent")
    assert ATTACKS[0] in shown and ATTACKS[1] in shown
    assert page.complaints == []  # a blocked script would be a complaint of the policy


def test_the_policy_would_stop_what_escaping_missed(page: Page) -> None:
    page.ask(
        "(() => { const s = document.createElement('script');"
        "s.textContent = \"document.title = 'owned'\"; document.body.append(s); })()"
    )
    assert page.ask("document.title") != "owned"
    page.ask(
        "{ const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i) }"
    )
    page.ask("new Promise(done => setTimeout(done, 200))")
    assert page.blocked == ["csp"]
    assert any("Content Security Policy" in text for text in page.complaints)


def test_sorting_by_keyboard(page: Page) -> None:
    first = page.ask(cells("size"))
    assert len(first) > 20 and first == sorted(first, reverse=True)
    page.ask(f"{header('difference')}.focus()")
    page.press("Enter", 13, "\r")
    assert page.ask(f"{header('difference')}.closest('th').ariaSort") == "descending"
    found = page.ask(cells("difference"))
    assert found == sorted(found, reverse=True) and len(found) == len(first)
    page.press(" ", 32, " ")
    assert page.ask(cells("difference")) == sorted(found)
    assert page.ask("document.querySelectorAll('#moved-queries th[aria-sort]').length") == 1
    page.ask(f"{header('query')}.click()")
    texts = page.ask(f"{ROWS}.map(u => u.querySelector('th').dataset.value.toLowerCase())")
    assert page.ask(f"{header('query')}.closest('th').ariaSort") == "ascending"
    assert page.ask(f"{texts!r}.every((t, i, a) => !i || a[i - 1].localeCompare(t) <= 0)")


def test_rankings_stay_with_their_query(page: Page) -> None:
    texts = "[u.querySelector('th').textContent, u.querySelector('details').textContent]"
    pairs = f"{ROWS}.map(u => {texts})"
    before = page.ask(pairs)
    page.ask(f"{header('candidate')}.click()")
    after = page.ask(pairs)
    assert before != after and sorted(before) == sorted(after)


def test_searching(page: Page) -> None:
    everything = page.ask(f"{SHOWN}.length")
    wanted = page.ask(f"{ROWS}[3].querySelector('li code').textContent")
    page.ask("document.getElementById('search').focus()")
    page.type(wanted)
    shown = page.ask(f"{SHOWN}.map(u => u.textContent.includes({wanted!r}))")
    assert 0 < len(shown) < everything and all(shown)
    assert page.ask("document.getElementById('found').value") == (
        f"{len(shown)} of {everything} shown"
    )
    page.type(" nothing-like-it")
    assert page.ask(f"{SHOWN}.length") == 0
    page.ask(
        "{ const s = document.getElementById('search'); s.value = '';"
        " s.dispatchEvent(new Event('input')) }"
    )
    assert page.ask(f"{SHOWN}.length") == everything


def test_everything_opens_and_closes(page: Page) -> None:
    count = "document.querySelectorAll('#moved-queries details[open]').length"
    page.ask("document.getElementById('toggle-all').click()")
    assert page.ask(count) == page.ask(f"{ROWS}.length")
    page.ask("document.getElementById('toggle-all').click()")
    assert page.ask(count) == 0


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    page.ask("document.querySelectorAll('details').forEach(d => (d.open = true))")
    assert page.ask("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")


def test_dark_follows_the_reader(page: Page) -> None:
    colors = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        colors.append(page.ask("getComputedStyle(document.body).backgroundColor"))
    page.call("Emulation.setEmulatedMedia", features=[])
    assert colors == ["rgb(255, 255, 255)", "rgb(18, 22, 28)"]


def test_controls_have_names_in_the_accessibility_tree(page: Page) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (n["role"]["value"], n.get("name", {}).get("value", ""))
        for n in nodes
        if not n["ignored"] and n["role"]["value"] in ("button", "searchbox", "image", "link")
    ]
    assert {role for role, _ in named} == {"button", "searchbox", "image", "link"}
    assert all(name.strip() for _, name in named)


def test_a_phone_sees_losses_first_and_that_there_is_more(page: Page, file: Path) -> None:
    hinted = "document.querySelectorAll('#measures .scroll.more').length"
    size = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    try:
        page.call("Emulation.setDeviceMetricsOverride", width=400, **size)
        page.open(file.as_uri())
        assert page.ask(hinted) == 1
        bar = "document.querySelector('#queries svg .bar').getAttribute('class')"
        assert "worse" in page.ask(bar)
        heads = "[...document.querySelectorAll('#measures thead th')].map(h => h.textContent)"
        assert page.ask(heads)[:3] == ["Measure", "Difference", "p"]
        right = "document.querySelector('#measures thead th:nth-child(2)').getBoundingClientRect()"
        assert page.ask(f"{right}.right") <= 400
        page.call("Emulation.setDeviceMetricsOverride", width=1400, **size)
        page.open(file.as_uri())
        assert page.ask(hinted) == 0
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")
