"""Shared settings: deterministic Hypothesis, no network, one thread a worker."""

import os

import hypothesis
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: tests never reach for the network
os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)

_common = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("default", derandomize=True, database=None, max_examples=25, **_common)
hypothesis.settings.register_profile("dev", max_examples=50, **_common)
hypothesis.settings.register_profile("thorough", max_examples=500, **_common)
hypothesis.settings.load_profile(os.environ.get("PERAKIT_HYPOTHESIS", "default"))
