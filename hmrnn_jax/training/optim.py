"""Optimisers, and the `Plan` that the host keeps of a run: learning rate, slope, averaging, end.

The plan's numbers are the host's: asking for one never waits for a device.
"""

import dataclasses
import math

import jax
import numpy as np
import optax

from hmrnn_jax.errors import UserError

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("plateau", "cosine", "nonmonotone")
MOST_UPDATES = 2**31 - 1  # their number is an int32


def optimizer(name="adam", clip=1.0, weight_decay=0.0, epsilon=1e-8, detector_rate=1.0):
    """Direction of an update; the step scales it by the learning rate.

    The gradient is clipped to the global norm `clip`, `weight_decay` times the parameters
    is added to it, and `adam` or plain `sgd` follow. The updates of an HM-LSTM's detectors
    are scaled by `detector_rate`: Adam moves each weight of a row by the learning rate, all
    of one sign at first, so that a detector's single output travels a thousand times as far.
    """
    chain = [optax.clip_by_global_norm(clip)]
    if weight_decay:
        chain.append(optax.add_decayed_weights(weight_decay))
    if name == "adam":
        chain.append(optax.scale_by_adam(eps=epsilon))
    if detector_rate != 1:
        chain.append(optax.masked(optax.scale(detector_rate), _detectors))
    return optax.chain(*chain)


def _detectors(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(part, "key", None) == "detector" for part in path), params
    )


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
      latest: updates after which the first drop comes, at the next validation, even if no
        validation has stalled; 0 waits for one that does.
      best, waited, dropped: progress; saved with the run.
    """

    learning_rate: float
    factor: float
    patience: int
    drops: int
    latest: int = 0
    best: float = float("inf")
    waited: int = 0
    dropped: int = 0

    def rate(self, done):
        """The learning rate of the update after `done`."""
        return self.learning_rate / self.factor ** min(self.dropped, self.drops)

    @property
    def finished(self):
        """Whether validation stalled once more after the last drop."""
        return self.dropped > self.drops

    def averaged(self, done):
        """Iterates in the average after update `done`: this schedule keeps none."""
        return 0

    def update(self, value, done=0, epoch=0):
        """Takes a validation loss; returns whether it is the best so far."""
        value = float(np.float32(value))  # as it is saved, so that a resumed run decides alike
        better = value < self.best
        if better:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        due = self.latest and not self.dropped and done >= self.latest
        if due or self.waited >= self.patience:
            self.dropped, self.waited = self.dropped + 1, 0
        return better

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


@dataclasses.dataclass
class Cosine(Plateau):
    """Half a cosine, from the learning rate at the start to 0 after `total` updates.

    Of a plateau it has the best loss alone: validation neither drops the rate nor ends the run.
    Progress is a plateau's, so that runs whose rate was once ended by one go on.
    """

    total: int = 1

    finished = False

    def rate(self, done):
        """The learning rate of the update after `done`."""
        # That of Optax is computed, and waited for, on the device.
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done / self.total, 1)))


def averaged_since(since, done):
    """Iterates in an average after update `done` that began after update `since`; -1: not yet."""
    return max(0, done - since) if since >= 0 else 0


@dataclasses.dataclass
class NonMonotone:
    """Plain SGD that turns into averaged SGD when validation stalls (NT-ASGD).

    Merity, Keskar, Socher 2018, in the form of the ON-LSTM's program: a loss is tested
    before it is stored; the average is used for validation and the raw parameters train on;
    at the end of epoch `finetune`, if averaging has begun by then, a fresh average starts.

    Attributes:
      learning_rate: constant.
      nonmono: the switch happens when a loss exceeds the least of all but the last
        `nonmono` before it.
      finetune: epoch, from 1, after which the average starts afresh; 0 never.
      best: least loss so far.
      least: least of all but the last `nonmono` losses; recent: those, oldest first.
      since: updates made when the average began; -1 before.
      epochs: made when the last loss came.
    """

    learning_rate: float
    nonmono: int = 5
    finetune: int = 0
    best: float = float("inf")
    least: float = float("inf")
    recent: tuple = ()
    since: int = -1
    epochs: int = 0

    finished = False

    def rate(self, done):
        """The learning rate of the update after `done`."""
        return self.learning_rate

    def averaged(self, done):
        """Iterates in the average after update `done`; 0 while there is none."""
        return averaged_since(self.since, done)

    def update(self, value, done=0, epoch=0):
        """Takes the validation loss after update `done`, `epoch` epochs made.

        Returns whether it is the best so far.
        """
        value = float(np.float32(value))
        better = value < self.best
        self.best = min(self.best, value)
        if self.since < 0:
            if value > self.least:
                self.since = done
            self.recent += (value,)
            if len(self.recent) > self.nonmono:
                self.least = min(self.least, self.recent[0])
                self.recent = self.recent[1:]
        elif self.epochs < self.finetune <= epoch:  # once, however many losses an epoch brings
            self.since = done
        self.epochs = epoch
        return better

    def progress(self):
        """What has to be saved, and given to `resume`."""
        recent = np.full(self.nonmono, np.nan, np.float32)
        recent[: len(self.recent)] = self.recent
        scalars = {"best": np.float32(self.best), "least": np.float32(self.least)}
        counts = {"since": np.int32(self.since), "epochs": np.int32(self.epochs)}
        return scalars | counts | {"recent": recent}

    def resume(self, progress):
        """Takes up the saved progress."""
        self.best, self.least = float(progress["best"]), float(progress["least"])
        recent = np.asarray(progress["recent"])
        self.recent = tuple(float(v) for v in recent[~np.isnan(recent)])
        self.since, self.epochs = int(progress["since"]), int(progress["epochs"])


class Plan:
    """All that the host decides of a run's updates, from its configuration and its data.

    Update `done + 1` is asked for by `done`, the number of those before it. Rate and average also
    follow the validations so far, which `update` takes; `progress` and `resume` save those.

    Args:
      config: of the run.
      stream: of its training batches: `epoch(step)`, `scale(step)`, `steps_in(epochs)`.

    Attributes:
      optimizer: the direction of an update, see `optimizer`.
      total: updates of the whole run: `config.steps`, or `config.epochs` epochs of the stream.
      schedule: a `Plateau`, `Cosine` or `NonMonotone`.
      averages: whether the run's state holds an average of the parameters.

    Raises:
      UserError: there are more updates than can be counted.
    """

    def __init__(self, config, stream):
        self.optimizer = optimizer(
            config.optimizer,
            config.clip,
            config.weight_decay,
            config.adam_epsilon,
            config.detector_rate,
        )
        self.total = config.steps or stream.steps_in(config.epochs)
        if self.total > MOST_UPDATES:
            raise UserError(
                f"{config.epochs:,} epochs are {self.total:,} updates, of at most"
                f" {MOST_UPDATES:,}: lower epochs, or give steps."
            )
        rate = config.learning_rate
        validations = (config.drop_factor, config.patience, config.drops)
        if config.schedule == "nonmonotone":
            self.schedule = NonMonotone(rate, config.nonmono, config.finetune)
        elif config.schedule == "cosine":
            self.schedule = Cosine(rate, *validations, total=self.total)
        else:
            latest = math.ceil(config.drop_by * self.total)
            self.schedule = Plateau(rate, *validations, latest)
        self.averages = config.schedule == "nonmonotone"
        self._stream, self._slope = stream, config.slope.to_dict()

    def rate(self, done):
        """The learning rate of the update after `done`, for a batch of its length."""
        return self.schedule.rate(done) * self._stream.scale(done)

    def slope(self, done):
        """The detectors' slope in the update after `done`."""
        return slope_at(self._stream.epoch(done), **self._slope)

    def averaged(self, done):
        """Iterates in the average after update `done`; 0 while there is none."""
        return self.schedule.averaged(done)

    def scalars(self, done):
        """What the update after `done` takes of it: `learning_rate`, `slope`, `averaged`."""
        return {
            "learning_rate": self.rate(done),
            "slope": self.slope(done),
            "averaged": self.averaged(done + 1),
        }

    @property
    def finished(self):
        """Whether the validations so far end the run."""
        return self.schedule.finished

    @property
    def best(self):
        """The least validation loss so far."""
        return self.schedule.best

    def update(self, value, done):
        """Takes the validation loss after update `done`; returns whether it is the best so far."""
        return self.schedule.update(value, done, self._stream.epoch(done))

    def progress(self):
        """What has to be saved, and given to `resume`."""
        return self.schedule.progress()

    def resume(self, progress):
        """Takes up the saved progress."""
        self.schedule.resume(progress)
