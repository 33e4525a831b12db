"""What the streams of batches share."""


class Epochs:
    """Where the epochs of a stream end, if all have `steps_per_epoch` steps."""

    steps_per_epoch: int

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def steps_in(self, epochs: int) -> int:
        """Steps of the first `epochs` epochs."""
        return epochs * self.steps_per_epoch

    def scale(self, step: int) -> float:
        """Factor of the learning rate at a step: 1, as all batches are alike."""
        return 1.0
