"""What a model of words has learnt of syntax: trees, and which sentences it takes for right."""

from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import (
    LANGUAGE,
    OFFICIAL,
    RUN,
    SEED,
    file,
    open_run,
    output,
    place,
    shown,
    with_control,
)
from hmrnn_jax.datasets.syneval import find, read_items
from hmrnn_jax.evaluation import syntax
from hmrnn_jax.training.fields import Switch, Whole, Wholes


def trees(given):
    """Score the trees that a model of words finds against a treebank.

        hmrnn trees --workdir=runs/on-ptb --treebank=wsj.zip --sections=23
        hmrnn trees --workdir=runs/on-ptb --treebank=nltk --control=runs/awd-ptb

    Parsing F1 of every layer, by both tree rules, beside left-branching, right-branching,
    balanced and random trees.
    """
    # What is asked is read before the run, which takes longer.
    bank = syntax.read_treebank(given.treebank, given.sections, given.longest)
    run = open_run(given, "trees", [LANGUAGE])
    return shown(syntax.trees(run, bank, *with_control(run, given)[1:]))


def parse(given):
    """Parse plain sentences, and draw the tree of one.

        hmrnn parse --workdir=runs/on-ptb --text=sentences.txt

    Prints the brackets of each sentence on a line of its own.
    """
    picture = place(given, "tree.png")
    words = syntax.read_sentences(given.text)
    run = open_run(given, "parse", [LANGUAGE])
    return shown(syntax.parse(run, words, given.layer, given.biased, given.draw, picture))


def syneval(given):
    """Score a model of words on Marvin and Linzen's pairs of sentences.

        hmrnn syneval --workdir=runs/on-ptb

    Of each pair one sentence is grammatical: how often it is the likelier, by construction.
    """
    items = read_items(given.items or find())
    run = open_run(given, "syneval", [LANGUAGE])
    return shown(syntax.pairs(run, items, given.seed))


COMMANDS = {
    "trees": Command(
        trees,
        RUN
        | {
            "treebank": (
                None,
                file("Penn bracket files (a file, folder or zip), or nltk for its sample."),
            ),
            "sections": (None, Wholes("Sections of the treebank, for example 23; all if none.")),
            "longest": (None, Whole("Most words of a sentence: 10 for WSJ10.", 1)),
            "control": (None, file("Folder of a second run, parsed the same way.")),
        }
        | OFFICIAL
        | JSON,
        needs=("treebank",),
        meant="--treebank={0}",
    ),
    "parse": Command(
        parse,
        RUN
        | {
            "text": (None, file("A UTF-8 file, a sentence a line.")),
            "layer": (2, Whole("Layer whose distances are read, from 1.", 1)),
            "draw": (1, Whole("Which sentence is drawn, from 1.", 1)),
            "biased": (True, Switch("Whether the tree rule is the authors'.")),
        }
        | output("File of the picture, PNG; tree.png in --workdir by default.")
        | OFFICIAL
        | JSON,
        needs=("text",),
        meant="--text={0}",
    ),
    "syneval": Command(
        syneval,
        RUN | {"items": (None, file("Another file of pairs."))} | SEED | OFFICIAL | JSON,
    ),
}
