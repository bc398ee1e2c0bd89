"""robustdeploy: prune a network while training it to be robust, deploy it, attack and time what runs there, gate on it."""

from __future__ import annotations

__version__ = "0.1.0"
