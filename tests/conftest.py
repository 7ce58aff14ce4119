"""What every test runs under: no network, and Hypothesis without deadlines or chance."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

pytest_plugins = ["fixtures_models"]

settings.register_profile("headscope", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("headscope")
