"""What a run tells people while it trains: parameters, devices, progress. Returns text."""

import os
import sys
import time

import jax
from tqdm import tqdm

_AHEAD = 8  # updates that the devices are given before a live line waits for the first of them
_BAR = "{desc}{percentage:3.0f}% |{bar:16}| update {n_fmt}/{total_fmt}{postfix}"


def above(line):
    """Prints a line on stdout, above the live line if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def parameter_table(params):
    """Names, shapes and sizes of all parameters, and their total."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    rows = [
        ("/".join(str(key.key) for key in path), leaf.shape, leaf.size) for path, leaf in leaves
    ]
    width = max(len(name) for name, *_ in rows)
    lines = [f"  {name:{width}}  {str(list(shape)):>14}  {size:>12,}" for name, shape, size in rows]
    total = sum(size for *_, size in rows)
    return "\n".join(["parameters", *lines, f"  {'total':{width}}  {'':14}  {total:>12,}"])


def total(params):
    """One line on how many parameters there are."""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"parameters: {count:,} in total (--table lists them)"


def devices():
    """One line on the devices and processes."""
    first, count = jax.devices()[0], jax.device_count()
    cores = f", {os.cpu_count()} cores" if first.platform == "cpu" else ""
    hosts = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    kind = f"{first.device_kind} ({first.platform}{cores})"
    return f"devices: {count} x {kind}{hosts}, jax {jax.__version__}"


# Metrics of which validation has its own.
TRAIN_AND_VALID = (
    "bpc", "nats", "symbols", "examples", "accuracy", "error", "steps", "sequences",
    "log_likelihood",
)  # fmt: skip


class Progress:
    """Speed and time left: a line a report, or one live line of a terminal.

    Args:
      task: for its unit and headline. done, total: updates made and to make.
      say: function that logs a line. terminal: a file that has a live line, or None.
    """

    def __init__(self, task, done, total, say, terminal=None):
        self.task, self.done, self.total, self.say = task, done, total, say
        self.time, self.rate = None, 0.0
        self._bar = terminal and tqdm(
            total=total, initial=done, file=terminal, bar_format=_BAR, dynamic_ncols=True,
            leave=False, postfix="compiling ...",
        )  # fmt: skip

    def advance(self, done, pending):
        """Moves the live line, if there is one.

        Args:
          done: updates that the devices were given. pending: metrics of the last of these.
        """
        if self._bar is not None and len(pending) >= _AHEAD:
            jax.block_until_ready(pending[-_AHEAD])
            self._bar.update(done - _AHEAD + 1 - self._bar.n)

    def close(self):
        """Takes the live line away."""
        if self._bar is not None:
            self._bar.close()

    def skip(self):
        """Leaves the time since the last report out: it went into something else."""
        if self.time is not None:  # a compilation is to come, which is left out whole
            self.time = time.perf_counter()

    def compiles(self):
        """The updates to come begin with a compilation: no speed is claimed for them."""
        self.time = None

    def report(self, done, result):
        """`(line, result with speed)` for the updates since the last report; see `tell`."""
        now = time.perf_counter()
        # That of a compilation, as the first, tells no speed.
        left = None
        if self.time is not None and done > self.done:
            seconds = now - self.time
            self.rate = result[self.task.counted] / seconds
            left = (self.total - done) * seconds / (done - self.done)
            result = result | {f"{self.task.unit}_per_second": self.rate}
        self.done, self.time = done, now
        parts = [
            f"epoch {result['epoch']}",
            self.task.headline(result),
            f"{self.rate:,.0f} {self.task.unit}/s" if self.rate else "compiled",
            f"{_duration(left)} left" if left is not None else "",
            _rates("fires", result, "rate"),
            _rates("live", result, "live"),
        ]
        result = {("train/" + k if k in TRAIN_AND_VALID else k): v for k, v in result.items()}
        return "  ".join(filter(None, parts)), result

    def tell(self, done, line):
        """Says the line of a report, or puts it in the live line; once it is logged."""
        if self._bar is None:
            self.say(f"update {done:,}/{self.total:,}  {line}")
        else:
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()


def _rates(word, result, kind):
    values = [value for name, value in result.items() if name.startswith(f"{kind}/")]
    return f"{word} {' '.join(f'{v:.2f}' for v in values)}" if values else ""


def _duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def validation_line(done, headline, result, best):
    """One line on a validation."""
    operations = ", ".join(
        f"{kind} {_rates('', result, kind).strip()}"
        for kind in ("update", "copy", "flush")
        if _rates("", result, kind)
    )
    mark = " (best so far)" if best else ""
    return f"update {done:,}  validation {headline}{mark}  {operations}".rstrip()
