"""The release that this version belongs to, for what must not differ from one commit to the next."""

from __future__ import annotations

from packaging.version import Version

import robustdeploy

RELEASE = Version(robustdeploy.__version__).base_version
"""``0.2.0`` of ``0.2.0.dev7+g1f2e3d4``.

With the commit in it, an agent or an ONNX file would change with every commit, and all that rests on it be done again.
"""
