"""Fixtures shared by tests of modes: a translator, and training without the following steps."""

import pytest
from trained import translator

from transformer.inference import predict
from transformer.modes import training


@pytest.fixture
def loaded(monkeypatch):
    """Makes modes use the shared translator."""
    shared = translator()
    monkeypatch.setattr(predict, "load", lambda *arguments: shared)


@pytest.fixture
def not_scored(monkeypatch):
    """Only training: the following steps take long to compile."""
    monkeypatch.setattr(training, "_finish", lambda *arguments: None)
