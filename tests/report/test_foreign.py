"""Foreign words, from wherever they come to wherever they are shown: nothing steers a terminal, nothing is markup."""

import json
import re
import sys
import unicodedata
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from robustdeploy.core.gate import Rule
from robustdeploy.core.report import Diagnostic, Omission, SubjectEvidence
from robustdeploy.devices.conversation import _error_from
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError, BoardError, RobustdeployError
from robustdeploy.foreign import json_text, one_line, printable, sentence, shown_name
from robustdeploy.report.formats.html import Html
from robustdeploy.report.formats.junit import Junit
from robustdeploy.report.formats.md import Markdown

BOARD = "pruned/fp32@jetson-orin"
LINK = "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07"
STEERS = f"a{LINK}\x1b[2J\x9b31m\r\b\x07\x7f\u202eb\u2066\u200b\u200d\ufeff\u3164\U000e0041"
SPOOF = f"{STEERS}\nPASS: all rules hold\u2028PASS\x0bPASS\x85PASS"
MARKUP = "<img src=x onerror=alert(1)>|[x](javascript:alert(1))|https://evil.example www.evil.example `c` **b**"
HOSTILE = f"{SPOOF} {MARKUP}"
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what does not show."""
IN_A_FILE_NAME = STEERS.replace("/", "")[:60] + "\nPASS"


def is_harmless(text, lines="\n"):
    """Judge by Unicode's own tables, not by the product's."""
    hidden = [c for c in text if c not in lines and unicodedata.category(c) in HIDDEN]
    assert not hidden, ascii(hidden)
    assert "\u3164" not in text
    assert not re.search(r"^\s*PASS", text, re.MULTILINE)
    return True


@pytest.mark.parametrize("text", [STEERS, SPOOF, HOSTILE, "\udcff\ud800", "x\ufe0f", "\u2800\u115f\u034f"])
def test_what_does_not_show_is_written_out_and_json_keeps_the_value(text):
    for shown in (one_line(text), sentence(text)):
        assert is_harmless(shown, lines="")
    assert is_harmless(re.sub(r"^PASS", "", printable(text), flags=re.MULTILINE))
    for plain in (True, False):
        told = json_text({text: [text]}, ascii_only=plain, indent=1)
        assert json.loads(told) == {text: [text]}
        assert is_harmless(told)
    with pytest.raises(ValueError, match="do not show"):
        shown_name(text)


@pytest.mark.parametrize(
    "text", ["añb", "日本 語", "می\u200cخواهم", "👩\u200d🚀", "⚠\ufe0f", "45\u00a0%", "क्\u200dष", "a  b"]
)
def test_what_people_write_stays_as_it_is(text):
    assert one_line(text) == sentence(text) == printable(text) == text
    assert json_text(text) == json.dumps(text, ensure_ascii=False)
    assert shown_name(text) == text


def test_an_errors_arguments_are_its_lines_and_no_foreign_word_begins_one():
    error = RobustdeployError("one", f"two {SPOOF}", 3)
    assert len(str(error).split("\n")) == 3
    assert is_harmless(str(error))
    assert str(RobustdeployError("torch said:\n\tMissing key")) == "torch said: Missing key"


def _board_says(kind):
    return _error_from({"kind": kind, "message": HOSTILE}, HOSTILE, {})


@pytest.mark.parametrize("kind", ["BoardError", "UsageError", HOSTILE, None, ["x"]])
def test_an_error_that_a_board_answers_with(kind):
    assert isinstance(_board_says(kind), RobustdeployError)
    assert is_harmless(str(_board_says(kind)))
    assert is_harmless(str(_error_from(HOSTILE, "a board", {})))


def _folders(folder):
    for side in ("train", "test"):
        for name in (IN_A_FILE_NAME, "b"):
            (folder / "set" / side / name).mkdir(parents=True)
            (folder / "set" / side / name / f"{IN_A_FILE_NAME}.png").write_bytes(b"no image")
    return ["prune", "--data", "set", "--set", "data.name=folder"]


def _yaml(text):
    def source(folder):
        (folder / "x.yaml").write_text(text, encoding="utf-8")
        return ["validate", "x.yaml"]

    return source


def _sent_run(folder):
    """A run folder in which somebody has written by hand, with every hash in its place."""
    root = folder / "runs" / "sent"
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text("name: x\n")
    Ledger(root / "ledger.jsonl").append(HOSTILE, folder=HOSTILE, manifest=HOSTILE, files={HOSTILE: HOSTILE})
    Ledger(root / "ledger.jsonl").append("sealed", folder=HOSTILE, manifest=HOSTILE)
    (root / "report.json").write_text(json.dumps({"measurements": [], HOSTILE: HOSTILE, "verdict": HOSTILE}))
    return ["verify", "runs/sent"]


def _named_run(folder):
    _sent_run(folder)
    (folder / "runs" / "sent").rename(folder / "runs" / IN_A_FILE_NAME)
    return ["report", f"runs/{IN_A_FILE_NAME}"]


def _report(folder):
    (folder / "report.json").write_text(json.dumps({"measurements": [], "schema_version": HOSTILE}))
    return ["gate", "report.json"]


def _report_key(folder):
    (folder / "report.json").write_text(json.dumps({"measurements": [], "schema_version": 1, HOSTILE: HOSTILE}))
    return ["gate", "report.json"]


def _net(folder):
    info = {"net": {"name": HOSTILE}, "classes": ["a", "b"], "image_shape": [1, 8, 8], "mean": [0], "std": [1]}
    (folder / "net").mkdir()
    (folder / "net" / "net.json").write_text(json.dumps({**info, HOSTILE: HOSTILE}))
    (folder / "net" / "model.safetensors").write_bytes(b"")
    return ["evaluate", "net", "--recipe", "digits-resnet8"]


QUOTED = json.dumps(HOSTILE.replace("\x7f", ""))
"""As YAML's double quotes take it too."""
SOURCES = {
    "a key": _yaml(f"name: x\n{QUOTED}: 1\n"),
    "a key inside": _yaml(f"name: x\ntrain: {{{QUOTED}: 1}}\n"),
    "a value": _yaml(f"name: {QUOTED}\n"),
    "a plug-in": _yaml(f"name: x\nnet: {QUOTED}\n"),
    "an option": _yaml(f"name: x\nevaluate: {{attacks: [{{name: pgd, {QUOTED}: {QUOTED}}}]}}\n"),
    "a rule": _yaml(f"rules: [{{id: {QUOTED}, metric: {QUOTED}, at_least: 0.5}}]\n"),
    "a tag": _yaml("name: !<tag:x%1B[31m%0APASS> y\n"),
    "raw bytes": _yaml(f"name: {STEERS}\n"),
    "a target": _yaml(f"name: x\nbackend: {{name: {QUOTED}}}\nextends: {QUOTED}\n"),
    "a path": lambda folder: ["validate", f"{IN_A_FILE_NAME}.yaml"],
    "a path that is there": lambda folder: (folder / f"{IN_A_FILE_NAME}.yaml").write_text("- 1") and ["validate", "."],
    "a run": lambda folder: ["evaluate", HOSTILE],
    "a recipe's name": lambda folder: ["run", HOSTILE],
    "an override": lambda folder: ["prune", "--set", f"{HOSTILE}={HOSTILE}"],
    "a value on the command line": lambda folder: ["prune", "--set", f"name={QUOTED}"],
    "an option's name": lambda folder: ["prune", f"--{HOSTILE}"],
    "an option's value": lambda folder: ["prune", "--seed", HOSTILE],
    "a command": lambda folder: [HOSTILE],
    "a list": lambda folder: ["ls", HOSTILE],
    "runs": lambda folder: ["ls", "runs", "--runs", IN_A_FILE_NAME],
    "a class folder and a file": _folders,
    "a ledger": _sent_run,
    "a run's folder": _named_run,
    "a report": _report,
    "a report's key": _report_key,
    "a net": _net,
}


@pytest.mark.parametrize("source", SOURCES)
def test_no_source_reaches_the_terminal_or_breaks_json(tmp_path, command, monkeypatch, source):
    monkeypatch.setenv("XDG_STATE_HOME", f"/nowhere/{STEERS}")
    words = SOURCES[source](tmp_path)
    done = command(tmp_path, *words)
    assert "Traceback" not in done.err, done.err
    assert is_harmless(done.out + done.err)
    assert done.err.count("error: ") + done.err.count("Error: ") <= 1 or source == "an option's name"
    as_json = command(tmp_path, *words, "--json")
    assert as_json.code == done.code
    assert is_harmless(as_json.out)
    if done.code:
        assert as_json.document
    if source in ("a ledger", "a run's folder"):
        listed = command(tmp_path, "ls", "runs")
        assert listed.code == 0
        assert "damaged" in listed.out
        assert is_harmless(listed.out)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_encoding_is_a_way_round(tmp_path, spawn, encoding):
    words = ["prune", "--x\x1b[31m\u202e\x9b"]
    child = spawn(tmp_path, *words, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert r"x\x1b[31m\u202e\x9b" in err
    assert is_harmless(out + err)


def _hostile_report(make_report):
    from robustdeploy.core.report import Measurement

    checks = (Diagnostic(id=HOSTILE, level="warn", text=HOSTILE), Diagnostic(id="b", level="block", text=HOSTILE))
    rules = (Rule(id="RD-A-1", metric="robust_accuracy", attack=HOSTILE, at_least=0.4, reason=HOSTILE),)
    row = {"subject": BOARD, "attack": HOSTILE, "value": 0.5, "unit": "fraction", "n": 10, "low": 0.4, "high": 0.6}
    rows = tuple(
        Measurement(metric=metric, conditions={"class": HOSTILE, HOSTILE: HOSTILE, "eps": 0.1}, **row)
        for metric in ("robust_accuracy", "class_clean_accuracy", "robust_accuracy_at_eps", HOSTILE)
    )
    told = {HOSTILE: {HOSTILE: [HOSTILE]}, "throttled": [HOSTILE]}
    subjects = (
        SubjectEvidence(subject=BOARD, evaluation=HOSTILE, sha256={HOSTILE: HOSTILE}, board=told),
        SubjectEvidence(subject="pruned/fp32@elsewhere", lost=HOSTILE),
    )
    made = make_report(
        rules,
        checks,
        name=HOSTILE,
        producer=HOSTILE,
        omissions=(Omission(id=HOSTILE, text=HOSTILE),),
        subjects=subjects,
        sha256={HOSTILE: HOSTILE},
        data=told,
    )
    return made.model_copy(update={"measurements": rows + made.measurements})


@pytest.fixture
def hostile(make_report):
    return _hostile_report(make_report)


def test_a_reports_words_in_the_terminal(hostile, capsys):
    from robustdeploy.cli.result import accuracy_lines, show, verdict_document, verdict_lines

    show([*verdict_lines(hostile.verdict), *accuracy_lines(hostile)], {}, False)
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 1 + len(verdict_lines(hostile.verdict)) + len(accuracy_lines(hostile))
    assert is_harmless("\n".join(line for line in lines if not line.startswith("  PASS ")))
    show((), verdict_document(hostile.verdict), True)
    assert is_harmless(capsys.readouterr().out)


def test_a_reports_words_in_markdown_are_text(hostile):
    text = Markdown()(hostile)
    assert is_harmless(text)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert not re.search(r"<(a|img|script|code|strong>b)\b", page)
    assert set(re.findall(r"<(\w+)", page)) <= {
        *("h1", "h2", "p", "ul", "li", "strong", "blockquote", "table", "thead", "tbody", "tr", "th", "td"),
        *("details", "summary", "em"),
    }
    assert "://" not in text.replace("\\:", "")
    assert "www." not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_reports_words_in_the_page_are_text(hostile):
    page = Html()(hostile)
    assert is_harmless(page)
    assert "<img src=x" not in page
    assert not re.search(r"<(a|script)\b", page)


def test_a_reports_words_in_junit_are_sound_xml(hostile):
    text = Junit()(hostile)
    assert is_harmless(re.sub(r"(?m)^PASS, with|^PASS$", "", text))
    assert ElementTree.fromstring(text).tag == "testsuites"


def test_what_others_print_while_bars_are_drawn(monkeypatch):
    """On a terminal rich draws with escape sequences; words of others still come without any."""
    import io

    from robustdeploy.tracking.stream import Stream
    from robustdeploy.tracking.terminal import Terminal

    class Screen(io.StringIO):
        def isatty(self):
            return True

    drawn = Screen()
    monkeypatch.setattr(sys, "stderr", Stream(drawn))
    monkeypatch.setenv("TERM", "xterm")
    with Terminal() as callback:
        callback.progress("reading images", 1, 10)
        callback.progress(f"[red]{SPOOF}", 1, 10)
        callback.say(SPOOF)
        print(STEERS, file=sys.stderr)
    assert isinstance(sys.stderr, Stream)
    text = drawn.getvalue()
    assert "\x1b[" in text, "the bars themselves"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
    assert "\\x1b]8;;https://evil.example" in plain
    assert is_harmless(plain)


def test_an_error_passed_through_another_keeps_its_lines():
    inner = ArtifactError("a", "b")
    assert str(BoardError(*inner.args)) == "a\nb"
