"""What tests of modes share: a translator, and training without what follows it."""

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
    """Training alone: what follows it compiles for long."""
    monkeypatch.setattr(training, "_finish", lambda *arguments: None)
