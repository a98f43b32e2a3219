"""What tests of modes share: a translator and updates that are compiled once, and training without what follows it."""

import dataclasses

import pytest
from trained import translator

from transformer.inference import predict
from transformer.modes import training
from transformer.training import trainer


@pytest.fixture
def loaded(monkeypatch):
    """Makes modes use the shared translator."""
    shared = translator()
    monkeypatch.setattr(predict, "load", lambda *arguments: shared)


@pytest.fixture
def not_scored(monkeypatch):
    """Training alone: what follows it compiles for long."""
    monkeypatch.setattr(training, "_finish", lambda *arguments: None)


@pytest.fixture(scope="session", autouse=True)
def updates_are_compiled_once():
    """Runs whose updates are the same program share it, on whatever data and for however long they train."""
    make, made = trainer.make, {}

    def shared(config, facts, model):
        train = config.train
        by_length = None if train.schedule in ("rsqrt", "constant") else (train.steps, train.decay_updates)
        others = ("steps", "decay_steps", "max_skipped", "max_minutes", "debug_nans", "log_every", "evaluate_every")
        plain = dataclasses.replace(train, **{name: getattr(type(train)(), name) for name in others})
        key = (config.family, config.objective, model, facts, plain, by_length, train.debug_nans)
        if key not in made:
            made[key] = make(config, facts, model)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "make", shared)
        yield
