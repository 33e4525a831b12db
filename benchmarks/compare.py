"""Cells at one number of parameters: LSTM, stacked LSTM, Nested LSTM, HM-LSTM, ON-LSTM.

    python benchmarks/compare.py --budget=1000000 --data=ptb_char --steps=600 --seeds=3 \\
        --models=lstm,stack2,nested2,nested3,hm_lstm,on_lstm --output=runs/compare

The question is that of Moniz, Krueger (2017), who set the Nested LSTM against single-layer
and stacked LSTMs with as many parameters. Their sizes, training and figures could not be
obtained: none is used, and no figure of that paper is claimed. What is measured is a short
training at a constant learning rate, on this machine, with this library's cells.

* Each model is as wide as the budget allows, within 1 %, see `matched.fit`.
* The same for all: text, batches, number of updates, optimiser, clipping, embedding,
  initialisation, bias of the forget gates, no layer normalisation, no dropout; and the
  HM-LSTM's gated output module, of a fixed width. A plain softmax would read the HM-LSTM's
  slowest layer alone; and the baselines of its paper have the module too. Seeds vary the
  initial parameters, never the batches.
* The HM-LSTM has three layers, as in its paper, and a constant slope. The ON-LSTM has two, so
  that it differs from the stack of LSTMs in the cell alone.
* `--learning_rates=a,b,c` tunes each model alike: the first seed trains at every rate, and
  the lowest last validation chooses the rate of all seeds.

Time is that of training alone: neither compiling nor validating counts. Bits per character at
equal time are read off each run's validation curve, by straight lines, where the run that
finished first had finished. The folder gets compare.json (everything), compare.md (the table),
compare.png, and in `runs` a file for each finished run; the same command again takes up those
whose settings, text and machine are the same.
"""

import argparse
import functools
import json
import math
import sys
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import compare_report, matched, timing  # noqa: E402
from hmrnn_jax import cli, datasets, defaults, files, parallel  # noqa: E402
from hmrnn_jax.batches.text import Stream  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.models.language import language_model  # noqa: E402
from hmrnn_jax.tasks import language  # noqa: E402
from hmrnn_jax.training import optim  # noqa: E402
from hmrnn_jax.training import state as train_state  # noqa: E402

SLOPE = 1.0  # of the HM-LSTM's detectors: the trainings are too short for annealing


class Trainer:
    """One model, compiled once for all its seeds and learning rates.

    Args:
      config: of `matched.fit`. corpus: a `Corpus`. mesh: of one device.
      validation: symbols of the validation split that are read for the curves; 0 for all.
    """

    def __init__(self, config, corpus, mesh, validation):
        self.corpus, self.mesh, self.steps = corpus, mesh, config.steps
        self.every, self.rows = config.evaluation.every, config.batch
        self.stream = Stream(corpus.splits["train"], config.batch, config.window)
        self.valid = corpus.splits["valid"][: validation or None]
        self.model = language_model(config.model, corpus.vocabulary.size)
        evaluation = config.evaluation
        self._score = language.Evaluator(
            self.model, mesh, evaluation.batch, evaluation.window, evaluation.warmup
        )
        optimizer = optim.optimizer(config.optimizer, config.clip)
        init = functools.partial(language.init_params, self.model)
        self._create = jax.jit(functools.partial(train_state.create, init, optimizer))
        loss = functools.partial(language.loss, self.model, language.Penalties())
        update = functools.partial(train_state.train_step, loss, optimizer)
        batch = parallel.shard_batch(self.stream(0), mesh)
        lowered = parallel.pmapped(update, mesh).lower(*self._start(0), batch, _scalars(0))
        self._step = lowered.compile()

    def __call__(self, seed, learning_rate, report):
        """Trains and tests; `report` is given each validation.

        Returns `{curve, characters, test}`: the validations `{update, seconds, bpc}` from update
        0 on; the characters trained on; the test metrics of the last parameters, None if the
        training diverged.
        """
        state, carry = self._start(seed)
        scalars, seconds, characters, test = _scalars(learning_rate), 0.0, 0, None
        curve = [{"update": 0, "seconds": 0.0, "bpc": self._validate(state)}]
        while (done := curve[-1]["update"]) < self.steps and math.isfinite(curve[-1]["bpc"]):
            until = min(done + self.every, self.steps)
            start = time.perf_counter()
            for number in range(done, until):
                batch = self.stream(number)
                characters += int(batch.mask.sum())
                batch = parallel.shard_batch(batch, self.mesh)
                state, carry, metrics = self._step(state, carry, batch, scalars)
                parallel.settle(metrics)
            jax.block_until_ready((state, carry))
            seconds += time.perf_counter() - start
            curve.append({"update": until, "seconds": seconds, "bpc": self._validate(state)})
            report(curve[-1])
        if math.isfinite(curve[-1]["bpc"]):
            test = self._score(state.params, self.corpus.splits["test"], SLOPE)
        return {"curve": curve, "characters": characters, "test": test}

    def _start(self, seed):
        """State and carry before the first update."""
        carry = jax.tree.map(np.asarray, self.model.initial_carry(self.rows))
        state = parallel.replicate(self._create(seed), self.mesh)
        return state, parallel.shard_rows(carry, self.mesh)

    def _validate(self, state):
        return self._score(state.params, self.valid, SLOPE)["bpc"]


def _scalars(learning_rate):
    scalars = {"learning_rate": learning_rate, "slope": SLOPE, "averaged": 0}
    return {name: np.float32(value) for name, value in scalars.items()}


def base_config(flags):
    """What all models have in common, as a configuration of the library."""
    config = defaults.text()
    named = flags.data in datasets.NAMES
    config.data.update(
        name=flags.data if named else "text", path="" if named else flags.data, unit=flags.unit
    )
    config.model.update(head="gated", embedding=flags.embedding, output=flags.head)
    matched.alike(config, flags.forget_bias)
    config.slope.update(start=SLOPE, increment=0.0)
    config.batch, config.window, config.steps = flags.batch, flags.window, flags.steps
    config.evaluation.update(every=flags.every, warmup=flags.warmup)
    return config


def compare(flags, say):
    """The whole comparison; returns what compare.json holds.

    Args:
      flags: of `main`. say: takes lines of progress.

    Raises `UserError` for bad input, before anything is compiled or written, and for a training
    that diverged.
    """
    base = base_config(flags)
    data = base.data
    corpus = datasets.load(data.name, path=data.path or None, unit=data.unit)
    if corpus.vocabulary.unit == "words":
        raise UserError(f"{data.name} has words: choose a corpus of characters or bytes.")
    Stream(corpus.splits["train"], flags.batch, flags.window)
    symbols = corpus.vocabulary.size
    configs = {name: matched.fit(base, name, symbols, flags.budget) for name in flags.models}
    folder = flags.output / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): choose another.") from error

    # Runs are taken up again only where their bits and seconds can be set beside new ones.
    facts, mesh = timing.hardware(), parallel.make_mesh(jax.devices()[:1])
    machine = {k: v for k, v in facts.items() if k not in ("load before", "memory", "torch")}
    text = {split: zlib.crc32(np.asarray(ids).tobytes()) for split, ids in corpus.splits.items()}
    common = {"machine": machine, "text": text, "validation": flags.validation}
    trainers = {}

    def run(name, seed, rate):
        config = configs[name]
        config.seed, config.learning_rate = seed, rate
        settings = json.loads(json.dumps(common | {"config": config.to_dict()}))
        title, file = f"{name} seed {seed} rate {rate:g}", folder / f"{name}-{seed}-{rate:g}.json"
        if result := finished(file, settings):
            say(f"{title}: finished before, see {file}")
            return result
        if name not in trainers:
            say(f"{name}: compiling")
            trainers[name] = Trainer(config, corpus, mesh, flags.validation)

        def report(point):
            say(
                f"{title}: update {point['update']:,}/{flags.steps:,}, {point['seconds']:.1f} s,"
                f" valid bpc {point['bpc']:.4f}"
            )

        result = trainers[name](seed, rate, report)
        files.write_text(
            file, json.dumps({"settings": settings, "result": result}, indent=1) + "\n"
        )
        return result

    # Seeds go round the models, so that a slow hour of the machine slows all of them.
    tried = {name: {rate: run(name, 0, rate) for rate in flags.rates} for name in configs}
    rates = {name: best_rate(name, results) for name, results in tried.items()}
    runs = {name: [tried[name][rates[name]]] for name in configs}
    for seed in range(1, flags.seeds):
        for name in configs:
            result = run(name, seed, rates[name])
            best_rate(name, {rates[name]: result})  # raises if this seed diverged
            runs[name].append(result)

    everything = {"hardware": facts, "flags": vars(flags) | {"output": str(flags.output)}}
    everything |= {"corpus": corpus.name, "symbols": symbols, **compare_report.summary(runs)}
    for name, figures in everything["models"].items():
        network = configs[name].model
        total, cells = matched.parameters(configs[name], symbols)
        figures |= {"sizes": list(network.sizes), "parameters": total, "cell_parameters": cells}
        figures |= {"choices": network[network.cell].to_dict(), "learning_rate": rates[name]}
        figures["tried"] = {
            f"{rate:g}": compare_report.last_bpc(r) for rate, r in tried[name].items()
        }
    files.write_text(flags.output / "compare.json", json.dumps(everything, indent=1) + "\n")
    files.write_text(flags.output / "compare.md", compare_report.table(everything))
    compare_report.figure(flags.output / "compare.png", everything)
    return everything


def finished(file, settings):
    """The result in `file`, None unless it was made with these settings."""
    try:
        saved = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return saved["result"] if saved["settings"] == settings else None


def best_rate(name, results):
    """The learning rate of `{rate: result}` with the lowest last validation."""
    scores = {rate: compare_report.last_bpc(r) for rate, r in results.items() if r["test"]}
    if not scores:
        raise UserError(f"{name} diverged: choose lower --learning_rates than {max(results):g}.")
    return min(scores, key=scores.get)


def whole(text, least=1):
    """An integer flag, of at least `least`."""
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def finite(text):
    """A flag that is any finite number."""
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite")
    return float(text)


def known(text):
    """Comma-separated models."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in matched.KINDS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(matched.KINDS)}")
    return list(dict.fromkeys(names))


def positive(text):
    """Comma-separated learning rates."""
    rates = [float(rate) for rate in text.split(",")]
    if not all(0 < rate < math.inf for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}: learning rates are positive")
    return list(dict.fromkeys(rates))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = functools.partial(parser.add_argument, type=whole)
    add("--budget", default=1_000_000, help="parameters of every model (1000000)")
    add("--data", type=str, default="ptb_char", help="corpus, or the path of a text (ptb_char)")
    add(
        "--unit",
        type=str,
        choices=("characters", "bytes"),
        default="characters",
        help="of your text (characters)",
    )
    add(
        "--models",
        type=known,
        default=list(matched.KINDS),
        help=f"comma-separated, of {', '.join(matched.KINDS)} (all)",
    )
    add("--output", type=Path, required=True, help="folder of the results")
    add("--seeds", default=3, help="how many (3)")
    add("--steps", default=600, help="updates of a training (600)")
    add("--batch", default=32, help="rows of a batch (32)")
    add("--window", default=50, help="steps of truncated back-propagation (50)")
    add(
        "--learning_rate",
        "--learning_rates",
        type=positive,
        default=[2e-3],
        dest="rates",
        help="of Adam; several, comma-separated, to choose from for each model (0.002)",
    )
    add(
        "--forget_bias",
        type=finite,
        default=1.0,
        help="initial bias of all forget gates; the papers are silent (1)",
    )
    add("--embedding", default=128, help="width (128)")
    add("--head", default=128, help="width of the gated output module (128)")
    add("--every", default=50, help="updates between validations (50)")
    add(
        "--validation",
        type=functools.partial(whole, least=0),
        default=0,
        help="symbols of the validation text that are read each time, 0 for all (0)",
    )
    add(
        "--warmup",
        type=functools.partial(whole, least=0),
        default=500,
        help="unscored symbols before each row's part of a text (500)",
    )
    flags = parser.parse_args(arguments)
    try:
        compare(flags, lambda line: print(line, file=sys.stderr, flush=True))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print((flags.output / "compare.md").read_text(), end="", flush=True)


if __name__ == "__main__":
    cli.start(main)
