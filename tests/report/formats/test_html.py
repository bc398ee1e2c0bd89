import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.report import Diagnostic, Figures, SubjectEvidence
from robustdeploy.report.compare_page import compare_page
from robustdeploy.report.formats.html import Html
from robustdeploy.report.index import index_page
from robustdeploy.report.pairing import pairing
from robustdeploy.report.quantity import quantity
from robustdeploy.report.sides import Side

BOARD = "pruned/fp32@jetson-orin"
VOID = {"meta", "link", "img", "br", "hr", "path", "line", "circle", "rect"}
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"""


class Page(HTMLParser):
    """Holds a page's elements and texts, and fails on one that is not balanced."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words, self.styles = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page(report):
    return Page(Html()(report))


def assert_self_contained(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "audio", "video", "foreignobject"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            if name in attributes:
                assert attributes[name].startswith("data:"), (tag, attributes)
    style = " ".join([*page.styles, *(attributes.get("style") or "" for _, attributes in page.elements)])
    assert not re.search(r"@import|url\(|expression\(", style)


def test_the_page_needs_no_script_and_no_network(page, report):
    assert_self_contained(page)
    assert not re.search(r"https?://", Html()(report))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_measurement_is_on_the_page(page, report):
    for row in report.measurements:
        digits = 2 if row.metric.startswith("latency_ms.p") else 1
        shown = f"{row.value:,.0f}" if row.metric == "attack_queries" else quantity(row.value, row.unit, digits)
        assert shown in page.text, row
        assert f"{row.n:,}" in page.text
        if row.low is not None and row.unit == "fraction":
            assert quantity(row.low, row.unit).removesuffix(" %") in page.text, row
    for attack in {row.attack for row in report.measurements if row.attack}:
        assert attack in page.text


def test_the_verdict_comes_first_with_every_rule_and_its_evidence(page, report):
    verdict = page.text.index("INCONCLUSIVE, with 1 warning 1 of 4 rules cannot be decided")
    assert verdict < page.text.index("Accuracy under attack")
    for line in report.verdict.rules:
        assert f"{line.outcome.value} {line.rule}" in page.text
        assert line.text in page.text
    assert "Item 4.2" in page.text
    assert report.name in page.text


@pytest.mark.parametrize(
    ("limit", "level", "outcome", "words"),
    [
        (0.40, "ok", Outcome.PASS, "The one rule holds"),
        (0.60, "ok", Outcome.FAIL, "1 of 1 rule does not hold"),
        (0.40, "block", Outcome.INCONCLUSIVE, "Blocked the board throttled"),
    ],
)
def test_the_banner_says_the_outcome_in_words(make_report, limit, level, outcome, words):
    rule = Rule(id="RD-ROB-01", metric="robust_accuracy", attack="worst", at_least=limit)
    report = make_report((rule,), (Diagnostic(id="throttle", level=level, text="the board throttled"),))
    page = Page(Html()(report))
    assert report.verdict.outcome is outcome
    assert {"class": f"verdict {outcome.value}", "role": "region", "aria-labelledby": "verdict"} in page.all("div")
    assert words in page.text


def test_it_says_what_the_numbers_are_not(page):
    assert "Robust accuracy is an upper bound" in page.text
    assert "Intervals cover this sampling error alone" in page.text
    assert "with its interval (95 %)" in page.text
    assert "contract-tested" in page.text
    assert not re.search(r"certified|compliant|guaranteed|proven", page.text, re.IGNORECASE)


def test_budgets_agreement_diagnostics_facts_and_hashes_are_there(page, report):
    for words in (
        "50 steps, 10 restarts, alpha 2/255",
        "412,873 queries of pruned/fp32@jetson-orin",
        "all attacks above",
        "12,088,320 40,550,000",
        "MACs counted by flop counter 12,088,320 agrees",
        "layer2.1.conv2 27 of 32",
        "clocks.governor performance",
        "throttling none",
        "Warning latency-drift",
        "Found 0.013, threshold 0.01",
        "energy_mj",
        "warmup 0.2 s",
        "true class ship",
    ):
        assert words in page.text, words
    for digest in [*report.sha256.values(), *(d for each in report.deployed for d in each.sha256.values())]:
        assert digest in page.text


def test_activation_memory_is_told_where_it_is_known(make_report, report):
    assert "Activation memory, bytes" not in Page(Html()(report)).text
    known = {"memory_target": 0.5, "memory_bytes": 98_304, "dense_memory_bytes": 196_608}
    text = Page(Html()(make_report(budget=report.budget.model_copy(update=known)))).text
    assert "Activation memory, bytes 98,304 196,608" in text
    assert "Activation memory: 50.0 %" in text
    assert "budget 50.0 %" in text


def test_counts_that_differ_say_so(make_report, report):
    counts = report.budget.counts | {"onnx": 1}
    changed = make_report(budget=report.budget.model_copy(update={"counts": counts}))
    assert "MACs counted by onnx 1 differs" in Page(Html()(changed)).text


def test_it_can_be_read_without_seeing(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in attributes for attributes in page.all("th"))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("svg"):
        if attributes.get("role") == "img":
            assert set(attributes["aria-labelledby"].split()) <= set(ids)
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert set(attributes["aria-labelledby"].split()) <= set(ids)


def test_the_charts_are_well_formed_and_tell_their_values(report):
    charts = re.findall(r'<svg role="img".*?class="chart">.*?</svg>(?=\s*</figure>)', Html()(report), re.DOTALL)
    assert len(charts) == 7
    over_queries = next(chart for chart in charts if "queries-chart" in chart)
    assert "rays-300: 79.9 % after 10 queries, 64.0 % after 100 queries" in over_queries
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.find("title").text
        assert re.search(r"\d", root.find("desc").text)


def test_the_head_says_what_was_made_of_what(page):
    for words in (
        "Net resnet20, width 16",
        "Recipe cifar10-resnet20",
        "Training fastat, 30 epochs, 12 min",
        "Git commit a1a1a1a1a1a1",
        "Threat ℓ∞ ball of radius 8/255",
    ):
        assert words in page.text, words


def test_tiles_give_the_limit_the_margin_and_the_run_before(page):
    for words in (
        "Worst case PASS 49.4 % 46.3 to 52.5 % · n = 1,000 at least 45 % : the lower bound has 1.3 points",
        "48.5 % in two",
        "Against the dense net −1.8 points clean −2.8; intervals overlap dense: 51.2 % in the worst case",
        "Operations",
        "Latency, p99 PASS 2.410 ms 2.360 to 2.520 ms · n = 7,000 at most 10 ms : the upper bound has 7.48 ms to spare",
        "2.50 ms in two",
    ):
        assert words in page.text, words


def test_classes_steps_and_training_are_told(page, report):
    for words in (
        "Pruning cost these classes most, in the worst case: ship (3.3 points), frog (2.5 points)",
        "Under all attacks: images of each class (rows) by the answer they got (columns)",
        "Pruned, in torch pruned/fp32@torch 82.4 % 49.5 % −1.7 points",
        "ONNX, compiled, on jetson-orin pruned/fp32@jetson-orin 82.3 % 49.4 % −0.1 points",
        "same label as in torch for 999 of 1,000 images",
    ):
        assert words in page.text, words
    assert "masks frozen at epoch 16; gone back at epoch 22" in Html()(report)
    assert "clean ship 9.13" in page.text
    assert "attacked truck 5.02; ship: 4.2" in page.text
    assert "attacked horse 5.02 " in page.text


def test_a_report_of_an_older_version_shows_what_it_has(make_report, report):
    kept = {"channels": report.figures.channels, "latency": report.figures.latency}
    text = Page(Html()(make_report(figures=Figures(**kept), making=None, history=()))).text
    assert "Git commit" not in text
    assert "points to spare" in text
    assert "Under all attacks: images of each class" not in text


def test_hostile_names_stay_text(make_report, report):
    first = report.measurements[3].model_copy(update={"attack": HOSTILE, "conditions": {HOSTILE: HOSTILE}})
    odd = report.measurements[-1].model_copy(update={"metric": HOSTILE, "unit": HOSTILE})
    sample = report.figures.samples[0].model_copy(
        update={"attack": HOSTILE, "label": HOSTILE, "clean_prediction": HOSTILE, "clean_png": HOSTILE}
    )
    channel = report.figures.channels[0].model_copy(update={"layer": HOSTILE})
    histogram = report.figures.latency[BOARD].model_copy(update={"unit": HOSTILE})
    hostile = {HOSTILE: HOSTILE}
    changed = make_report(
        rows=(first, odd, *report.measurements[4:]),
        diagnostics=(Diagnostic(id=HOSTILE, level="block", text=HOSTILE),),
        name=HOSTILE,
        producer=HOSTILE,
        subjects=(
            SubjectEvidence(subject=BOARD, evaluation=HOSTILE, sha256=hostile, board={HOSTILE: {HOSTILE: [HOSTILE]}}),
            SubjectEvidence(subject="pruned/fp32@elsewhere", lost=HOSTILE),
        ),
        data={HOSTILE: HOSTILE},
        sha256={HOSTILE: HOSTILE},
        figures=Figures(channels=(channel,), latency={BOARD: histogram}, samples=(sample,)),
    )
    text = Html()(changed)
    page = Page(text)
    assert_self_contained(page)
    assert "<script" not in text
    assert "onerror=" in page.text
    assert "{{ 7*7 }}" in page.text
    assert html.escape(HOSTILE, quote=False)[:30] in text


def test_a_report_with_nothing_in_it_still_makes_a_page(make_report):
    page = Page(Html()(make_report((), (), (), figures=Figures(), board={}, data={})))
    assert "no rule was given" in page.text
    assert "Latency was not measured" in page.text


def chromium(*arguments):
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine, so the page cannot be looked at")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [found, "--headless", *quiet.split(), "--disable-component-update", "--disable-sync", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout


def screenshot(folder, name, content, *arguments):
    (folder / f"{name}.html").write_text(content)
    picture = folder / f"{name}.png"
    where = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", (folder / f"{name}.html").as_uri()]
    chromium(*arguments, *where)
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


AXE = "<script>{axe}</script><script>axe.run().then(found => document.title = JSON.stringify(found.violations.map(\
each => [each.id, each.nodes.map(node => node.html.slice(0, 120))])))</script>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "theme"), [("report", "light"), ("report", "dark"), ("index", "light"), ("compare", "light")]
)
def test_axe_finds_no_violation(report, some_runs, tmp_path, what, theme):
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed (uv sync)")
    program = files(axe).joinpath("axe.min.js").read_text()
    page = {
        "report": lambda: Html()(report),
        "index": lambda: index_page("runs", some_runs),
        "compare": lambda: compare_page([pairing(Side(report), Side(report))], ["one", "two"]),
    }[what]()
    # What is folded is looked at as well. Only here may the page run a program.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page).replace("<details", "<details open")
    (tmp_path / "page.html").write_text(text.replace("</body>", AXE.replace("{axe}", program) + "</body>"))
    scheme = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    where = [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()]
    found = re.search(r"<title>(.*?)</title>", chromium(*scheme, "--virtual-time-budget=20000", *where))
    assert found[1].startswith("["), "axe did not come to its end"
    assert json.loads(html.unescape(found[1])) == []


@pytest.mark.slow
def test_a_printed_report_takes_four_sheets_at_most(report, tmp_path):
    (tmp_path / "page.html").write_text(Html()(report))
    printed = tmp_path / "page.pdf"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={printed}", (tmp_path / "page.html").as_uri()]
    chromium("--no-pdf-header-footer", *where)
    assert 1 <= len(re.findall(rb"/Type /Page\b", printed.read_bytes())) <= 4


@pytest.mark.slow
def test_the_page_draws_in_light_and_dark(report, tmp_path):
    text = Html()(report)
    light = screenshot(tmp_path, "light", text, "--window-size=1200,1600")
    dark = screenshot(tmp_path, "dark", text, "--window-size=1200,1600", "--blink-settings=preferredColorScheme=0")
    assert light[5, 5].min() > 240
    assert dark[5, 5].max() < 60
    board = np.abs(light - np.array([0x1D, 0x5C, 0x9E])).sum(axis=2) < 12
    assert board.sum() > 300, "the marks of the board are drawn in their colour"


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 420, 768, 1200, 1600])
def test_the_page_fits_its_window(report, tmp_path, width):
    # Headless windows have a least width, so the window is a frame, and a page around it measures it.
    inside = html.escape(Html()(report), quote=True)
    measure = "const e = this.contentDocument.documentElement; document.title = e.scrollWidth + ' in ' + e.clientWidth"
    frame = f'<iframe style="width:{width}px;height:800px;border:0" onload="{measure}" srcdoc="{inside}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title></title>{frame}")
    where = [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    found = re.search(r"<title>(\d+) in (\d+)</title>", chromium(*where, "--window-size=1700,900"))
    assert found, "the page was not measured"
    assert 0 < int(found[2]) <= width
    assert int(found[1]) <= int(found[2])
