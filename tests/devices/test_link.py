import pytest

from robustdeploy.devices.local import Local
from robustdeploy.devices.ssh import Ssh
from robustdeploy.errors import UsageError


@pytest.mark.parametrize("path", ["./evil", "sent/evil", "../evil", "sent/../evil"])
@pytest.mark.parametrize(
    "make", [lambda p: Local(python=p), lambda p: Ssh("a", command=p), lambda p: Ssh("a", config=p)]
)
def test_a_target_starts_no_program_that_lies_beside_it(make, path):
    with pytest.raises(UsageError, match="give its whole path"):
        make(path)


def test_a_configuration_beside_the_target_could_name_a_proxy_command():
    with pytest.raises(UsageError, match="give its whole path"):
        Ssh("a", config="ssh_config")


def test_programs_by_name_or_whole_path_are_taken():
    Local(python="python3"), Local(python="/usr/bin/python3"), Local()
    Ssh("a", command="ssh", config="~/.ssh/board"), Ssh("a", command="/usr/bin/ssh", config="/etc/ssh/board")


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=touch x", "a -oProxyCommand=x", "$(touch x)", "a;b", "a`b`", "-", "a\nb", ""]
)
def test_a_host_is_no_option_and_no_command(host):
    with pytest.raises(UsageError, match="cannot be given to SSH"):
        Ssh(host)
