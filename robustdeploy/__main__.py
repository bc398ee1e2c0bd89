"""``python -m robustdeploy``: the command line."""

from robustdeploy.cli import main

main()
