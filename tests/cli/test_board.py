"""``robustdeploy board``: what is asked of a folder that is no board, and the whole way of one that is."""

import pytest

ACTIONS = ["start", "stop", "status"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_folder_that_is_no_board_is_told_with_the_command(command, tmp_path, action):
    (tmp_path / "photos").mkdir()
    done = command(tmp_path, "board", action, "photos")
    assert done.code == 2
    assert done.err == "error: photos is no emulated board; `robustdeploy board create photos` makes one\n"
    assert command(tmp_path, "board", action, "nowhere").code == 2


def test_other_files_are_never_built_over(command, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    done = command(tmp_path, "board", "create", "photos")
    assert done.code == 2
    assert "photos holds other files" in done.err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_file_is_no_folder(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = command(tmp_path, "board", "create", "file")
    assert (done.code, done.err) == (2, "error: file is a file; give a folder for the board\n")


def test_an_action_that_there_is_not(command, tmp_path):
    done = command(tmp_path, "board", "destroy", "x")
    assert done.code == 2
    assert "create" in done.err
    done = command(tmp_path, "board", "status", "x", "--port", "3000")
    assert (done.code, "--port is for `board start`" in done.err) == (2, True)


def test_the_target_says_which_command_makes_its_board(command, tmp_path):
    (tmp_path / "away.yaml").write_text(
        f"name: away\nextends: aarch64-emulated\nlink: {{name: emulated, folder: {tmp_path}/away}}\n"
    )
    done = command(tmp_path, "doctor", "--target", "away.yaml")
    assert done.code == 4
    assert f"`robustdeploy board create {tmp_path}/away`" in done.out


@pytest.mark.slow
def test_start_twice_and_stop_twice(command, tmp_path, own_emulated_board):
    first = command(tmp_path, "board", "start", own_emulated_board, "--json")
    assert first.code == 0, first.err
    again = command(tmp_path, "board", "start", own_emulated_board)
    assert (again.code, "was running already" in again.out) == (0, True)
    other = command(tmp_path, "board", "start", own_emulated_board, "--port", "1")
    assert (other.code, "stop it to change the port" in other.err) == (2, True)
    anew = command(tmp_path, "board", "create", own_emulated_board, "--force")
    assert (anew.code, "board stop" in anew.err) == (2, True)
    there = command(tmp_path, "board", "create", own_emulated_board)
    assert (there.code, "is there already" in there.out) == (0, True)
    assert "is running on port" in command(tmp_path, "board", "status", own_emulated_board).out
    looked = command(tmp_path, "doctor", "--target", first.document["target"])
    assert looked.code == 0, looked.out
    assert "ok  architecture: aarch64" in looked.out
    assert "is stopped" in command(tmp_path, "board", "stop", own_emulated_board).out
    assert "was not running" in command(tmp_path, "board", "stop", own_emulated_board).out
    gone = command(tmp_path, "doctor", "--target", first.document["target"])
    assert (gone.code, f"`robustdeploy board start {own_emulated_board}`" in gone.out) == (4, True)
