"""The monitored validation metric: which validations are among the best, and when training stops early.

The metric is `config.checkpoint.best_metric`. The state of the monitor is saved with each checkpoint, so that a resumed run
makes the same decisions as one that was never stopped.
"""

import math
from collections.abc import Iterable, Mapping

from transformer.config import Config

SAVED = ("best", "best_step", "reference", "waited")  # the state of a monitor in a checkpoint


class Monitor:
    """Checks each validation in order.

    A validation is an improvement if it is better than the reference by more than `train.min_delta`; it then becomes the
    reference. `train.patience` validations in a row without an improvement exhaust the patience.

    Args:
        config: its settings `train.patience`, `train.min_delta`, `checkpoint.best_metric` and `checkpoint.keep_best` are used.
        kept: the metric's values at the existing checkpoints.
        saved: the value of `numbers` when the last of them was saved.
    """

    def __init__(self, config: Config, kept: Iterable[float] = (), saved: Mapping[str, float] | None = None):
        self._train, self._metric, self._sign = config.train, config.checkpoint.best_metric, config.checkpoint.best_sign
        self._keep = config.checkpoint.keep_best
        self._kept = sorted(self._sign * value for value in kept)[: self._keep]
        found = dict(saved or {})
        self.best, self.reference = (found.get(f"monitor/{name}", math.inf * self._sign) for name in ("best", "reference"))
        self.best_step, self.waited = (int(found.get(f"monitor/{name}", 0)) for name in ("best_step", "waited"))

    def see(self, step: int, scores: Mapping[str, float]) -> bool:
        """Whether the validation after `step` updates is one of the `checkpoint.keep_best` best so far (the first of equals).
        `scores`: by full names; empty: there was no validation."""
        if not scores:
            return False
        value = scores.get(self._metric, math.nan)
        value = math.inf if math.isnan(value) else self._sign * value
        self.waited += 1
        if value < self._sign * self.reference - self._train.min_delta:
            self.reference, self.waited = self._sign * value, 0
        if value < self._sign * self.best:
            self.best, self.best_step = self._sign * value, step
        before, self._kept = self._kept, sorted([*self._kept, value])[: self._keep]
        return math.isfinite(value) and before != self._kept

    @property
    def exhausted(self) -> bool:
        """Whether training stops early."""
        return self._train.patience is not None and self.waited >= self._train.patience

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that are saved with a checkpoint; `best` and `reference` are absent before the first finite value."""
        values = {f"monitor/{name}": float(getattr(self, name)) for name in SAVED}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def reason(self, step: int) -> str:
        """Why training stops early, after `step` updates."""
        least = f" by more than {self._train.min_delta:g}" if self._train.min_delta else ""
        validations = f"{self.waited} validation{'s' * (self.waited != 1)}"
        return (
            f"stopped early after step {step:,}: {self._metric} did not improve{least} in {validations} "
            f"(config.train.patience {self._train.patience}); it was best after step {self.best_step:,}, {self.best:.6g}"
        )
