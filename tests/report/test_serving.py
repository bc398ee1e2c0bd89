import http.client
import socket
import threading

import pytest

from robustdeploy.errors import EnvironmentFailure
from robustdeploy.report.serving import server_of


@pytest.fixture
def ask(tmp_path):
    """Ask a server of a folder with one page, some weights and a page beside the folder; give status and content."""
    runs = tmp_path / "runs"
    (runs / "one").mkdir(parents=True)
    (runs / "one/report.html").write_text("<p>one</p>")
    (runs / "one/model.safetensors").write_text("weights")
    (runs / "one/deep").mkdir()
    (runs / "one/deep/page.html").write_text("deep")
    (tmp_path / "beside.html").write_text("beside")
    (runs / "one/away.html").symlink_to(tmp_path / "beside.html")
    with server_of(runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def once(path, host="127.0.0.1:1", method="GET"):
            line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            line.request(method, path, headers={"Host": host})
            answer = line.getresponse()
            content = answer.read().decode()
            line.close()
            return answer.status, content

        yield once
        server.shutdown()
        thread.join()


def test_pages_are_handed_out_and_nothing_else(ask):
    assert ask("/one/report.html") == (200, "<p>one</p>")
    assert ask("/one/report.html", method="HEAD") == (200, "")
    for path in ("/", "/index.html"):
        assert ask(path)[0] == 200
        assert "Runs in runs" in ask(path)[1]
    for path in ("/one/model.safetensors", "/one", "/one/", "/one/deep/page.html", "/nothing.html", "/one/away.html"):
        assert ask(path)[0] == 404, path
    for path in (
        "/../beside.html",
        "/%2e%2e/beside.html",
        "/one/..%2f../beside.html",
        "//etc/hosts.html",
        "/a%00.html",
    ):
        assert ask(path)[0] == 404, path
    assert ask("/one/report.html", method="POST")[0] == 501


def test_another_name_for_this_machine_is_not_answered(ask):
    assert ask("/one/report.html", host=f"localhost:{1}")[0] == 200
    assert ask("/one/report.html", host="evil.example:1")[0] == 403


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EnvironmentFailure, match="--port"):
            server_of(tmp_path, taken.getsockname()[1])
