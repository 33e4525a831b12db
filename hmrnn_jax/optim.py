"""Optimisers and the two schedules that the host keeps: learning rate and slope."""

import dataclasses

import numpy as np
import optax

from hmrnn_jax.errors import UserError


def adam(clip):
    """Adam on gradients clipped to the global norm `clip`; the step scales by the learning rate."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())


def slope_at(epoch, start, increment, maximum):
    """Slope annealing: `min(maximum, start + increment * epoch)`, epoch counted from 0.

    Chung et al. 2017, section 3: PTB 1, 0.04, 5; handwriting 1, 0.004, 3. Their "number
    of epochs" is read as the current epoch.
    """
    return min(maximum, start + increment * epoch)


@dataclasses.dataclass
class Plateau:
    """Divides the learning rate when validation stops improving (Chung et al.: by 50).

    Attributes:
      learning_rate: the rate at the start.
      factor: divisor at each drop.
      patience: evaluations without a new best before a drop.
      drops: drops in all; when one more is due, `finished` turns true.
      best, waited, dropped: progress; saved with the run.
    """

    learning_rate: float
    factor: float
    patience: int
    drops: int
    best: float = float("inf")
    waited: int = 0
    dropped: int = 0

    @property
    def rate(self):
        """The learning rate now."""
        return self.learning_rate / self.factor ** min(self.dropped, self.drops)

    @property
    def finished(self):
        """Whether validation stalled once more after the last drop."""
        return self.dropped > self.drops

    def update(self, value):
        """Takes a validation loss; returns whether it is the best so far."""
        value = float(np.float32(value))  # as it is saved, so that a resumed run decides alike
        if value < self.best:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        if self.waited >= self.patience:
            self.dropped, self.waited = self.dropped + 1, 0
        return False

    def progress(self):
        """What has to be saved, and given to `resume`."""
        return {
            "best": np.float32(self.best),
            "waited": np.int32(self.waited),
            "dropped": np.int32(self.dropped),
        }

    def resume(self, progress):
        """Takes up the saved progress."""
        self.best = float(progress["best"])
        self.waited, self.dropped = int(progress["waited"]), int(progress["dropped"])


def total_steps(config, steps_per_epoch):
    """Updates of a whole run: `config.steps`, or `config.epochs` epochs."""
    if config.steps < 0 or config.epochs < 1:
        raise UserError("steps must not be negative, and epochs at least 1.")
    return config.steps or config.epochs * steps_per_epoch


def learning_rate_at(config, plateau, done, total):
    """The learning rate of the update after `done` of `total`."""
    if config.schedule == "plateau":
        return plateau.rate
    return float(optax.cosine_decay_schedule(config.learning_rate, total)(done))


def check_schedule(config):
    """Raises `UserError` for settings that no run can have."""
    if config.schedule not in ("plateau", "cosine"):
        raise UserError(f"schedule is {config.schedule!r}; it must be plateau or cosine.")
    for field in ("learning_rate", "clip", "batch", "window", "report", "patience"):
        if not config[field] > 0:
            raise UserError(f"{field} is {config[field]}; it must be positive.")
