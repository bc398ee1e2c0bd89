"""The page of all runs, and the server that shows it."""

import signal
import urllib.request

import pytest


@pytest.mark.slow
def test_serve_shows_the_index_and_the_reports_until_it_is_interrupted(desk, spawn):
    process = spawn(desk, "serve", "runs", "--port", "0", "--no-open")
    address = process.stdout.readline().split()[0]
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert "Runs in runs" in answer.read().decode()
    with urllib.request.urlopen(address.replace("index.html", "tiny/report.html"), timeout=60) as answer:
        assert "tiny on quick" in answer.read().decode()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
