"""A page of a training that goes on: what the model makes of a text after each validation."""

import types

import jax
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer import page, text
from hmrnn_jax.inference import readings

WATCHED = 2_000  # symbols of the validation text
MOST_KEPT = 24  # validations: a page of some 2 MB
NAME = "watch.html"


class Watch:
    """Writes the page anew at each call; it has a slider over the validations kept.

    A page of the same text that is there already is gone on with, so that a resumed training keeps
    what was seen. Of many validations every second is dropped, again and again.

    Args:
      task: the `tasks.language` task that is trained. config: its configuration. title: of the run.
      workdir: folder that the page is in.

    Raises:
      UserError: the training is not of a language model, or of several processes; or the page
        cannot be written there.
    """

    def __init__(self, task, config, title, workdir):
        if config.task != "language":
            raise UserError(
                f"--watch is for runs of the task language; this is one of {config.task}: leave"
                " it out, and look at the run with hmrnn explore."
            )
        if jax.process_count() > 1:
            raise UserError("--watch is for a training of one process: leave it out.")
        self.path = epath.Path(workdir) / NAME
        files.check_writable(self.path)
        self._run = types.SimpleNamespace(
            config=config, encoding=task.encoding, model=task.model, title=title
        )
        self._ids = task.corpus.splits["valid"][:WATCHED]
        self._ends = task.corpus.ends.get("valid")
        # Line breaks take as long as a dozen other readings, and pmi has texts drawn first.
        names = readings.available(task.model, task.encoding.line_end)
        self._names = tuple(name for name in names if name not in ("line_break", "pmi"))
        self._data = None

    def __call__(self, update, params, slope):
        """Reads the text with parameters on the host, after update number `update`."""
        self._run.plain, self._run.slope = params, slope
        symbols = self._run.encoding.symbol_strings(self._ids)
        fixed = text.fixed(self._run, self._ids, symbols, "validation text", self._ends)
        found = text.read(self._run, self._ids, self._names, self._ids, "this text")
        before = page.read(self.path) if self._data is None else self._data
        earlier = [one for one in _moments(before, fixed) if one["update"] < update]
        if len(earlier) >= MOST_KEPT:
            earlier = earlier[::2]
        self._data = fixed | found | {"earlier": earlier, "update": update}
        page.write(self.path, self._data)


def _moments(data, fixed):
    """Of a page's data what hangs on the parameters, at each validation; none of another text."""
    names = (*text.OF_PARAMETERS, "update")
    if not data or data.get("symbols") != fixed["symbols"]:
        return []
    moments = [*data.get("earlier", []), data]
    return [
        {name: one[name] for name in names} for one in moments if all(name in one for name in names)
    ]
