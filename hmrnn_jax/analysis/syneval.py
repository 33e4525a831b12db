"""Targeted syntactic evaluation: does a language model prefer the grammatical sentence?

Marvin and Linzen (EMNLP 2018) wrote templates for subject-verb agreement, reflexive anaphora
and negative polarity items (NPI). An item is a grammatical sentence and an ungrammatical one
that differ in a word; it is right when the grammatical one has the strictly higher
probability. NPI items have a third, intrusive sentence: ungrammatical too, but with a word
that would license the item elsewhere ("the authors that no guards like have ever ...").

The sentences are all lower-case and without a full stop.
"""

import numpy as np

from hmrnn_jax.datasets.syneval import PAIR, TRIPLE
from hmrnn_jax.errors import UserError

# What is compared, the better sentence first; for three in the order in which the authors'
# own evaluation prints them.
_COMPARISONS = {
    2: (PAIR,),
    3: (
        ("grammatical", "intrusive"),
        ("intrusive", "ungrammatical"),
        ("grammatical", "ungrammatical"),
    ),
}

# Construction, animate and inanimate items together -> what the papers' tables call it.
TITLES = {
    "simple_agrmt": "agreement, simple",
    "sent_comp": "agreement, in a sentential complement",
    "vp_coord": "agreement, short VP coordination",
    "long_vp_coord": "agreement, long VP coordination",
    "prep": "agreement, across a prepositional phrase",
    "subj_rel": "agreement, across a subject relative",
    "obj_rel_across": "agreement, across an object relative",
    "obj_rel_no_comp_across": "agreement, across an object relative, no that",
    "obj_rel_within": "agreement, in an object relative",
    "obj_rel_no_comp_within": "agreement, in an object relative, no that",
    "simple_reflexives": "reflexive, simple",
    "reflexive_sent_comp": "reflexive, in a sentential complement",
    "reflexives_across": "reflexive, across a relative clause",
    "simple_npi": "NPI, simple",
    "npi_across": "NPI, across a relative clause",
}

# Accuracies of the ON-LSTM and of the LSTM beside it in Shen et al. (ICLR 2019). Both were
# TRAINED ON 80 MILLION WORDS OF WIKIPEDIA (2 layers of 650 units) and read each sentence
# with a full stop: models of another text, or of less, are not comparable with them.
#
# The titles of agreement and reflexives leave no doubt which construction is meant. The
# NPIs' three rows are UNCERTAIN: they are taken in the order of `_COMPARISONS`. All other
# orders contradict themselves (the LSTM's 1.00, .01 and .63 for simple NPIs would prefer a
# to b and b to c but not a to c), save the one that exchanges the first two.
PUBLISHED = {
    ("simple_agrmt", *PAIR): (0.99, 1.00),
    ("sent_comp", *PAIR): (0.95, 0.98),
    ("vp_coord", *PAIR): (0.89, 0.92),
    ("long_vp_coord", *PAIR): (0.74, 0.74),
    ("prep", *PAIR): (0.67, 0.68),
    ("subj_rel", *PAIR): (0.66, 0.60),
    ("obj_rel_across", *PAIR): (0.57, 0.52),
    ("obj_rel_no_comp_across", *PAIR): (0.54, 0.51),
    ("obj_rel_within", *PAIR): (0.84, 0.88),
    ("obj_rel_no_comp_within", *PAIR): (0.78, 0.81),
    ("simple_reflexives", *PAIR): (0.89, 0.82),
    ("reflexive_sent_comp", *PAIR): (0.86, 0.80),
    ("reflexives_across", *PAIR): (0.57, 0.58),
    ("simple_npi", "grammatical", "intrusive"): (0.18, 1.00),
    ("simple_npi", "intrusive", "ungrammatical"): (0.50, 0.01),
    ("simple_npi", "grammatical", "ungrammatical"): (0.07, 0.63),
    ("npi_across", "grammatical", "intrusive"): (0.59, 0.95),
    ("npi_across", "intrusive", "ungrammatical"): (0.20, 0.00),
    ("npi_across", "grammatical", "ungrammatical"): (0.11, 0.04),
}


def evaluate(items, vocabulary, score):
    """How often the better sentence is strictly the likelier one, for each construction.

    Args:
      items: of `read_items`.
      vocabulary: the model's `Vocabulary`. A symbol that it has not is read as the unknown
        symbol; two sentences that differ in unknown words only are then the same, a tie,
        and a tie is wrong.
      score: list of distinct int32 id arrays -> their log probabilities, as
        `functools.partial(inference.sentences.log_probabilities, model, params, before=end)`, where
        `after=stop` may add the full stop with which the papers' models read the sentences.

    Returns:
      A list of dicts, one for each construction in the order of the file, three for one of
      triples (see `TRIPLE`): `construction`, `better` and `worse` (roles), `items`, `right`,
      `accuracy`; the same of those items whose symbols are all in the vocabulary, as
      `known_items`, `known_right`, `known_accuracy` (None if there is none), and their
      share `known`. Accuracies and shares lie in [0, 1].

    Raises:
      UserError: there is no item; the vocabulary lacks a symbol and has no unknown symbol;
        a score is not a number.
    """
    if not items:
        raise UserError("there are no items to evaluate: give at least one.")
    places, distinct, of_text = {}, [], {}
    for item in items:
        for sentence in item.sentences:
            if sentence not in of_text:
                ids, unknown = vocabulary.encode_sentence(sentence)
                place = places.setdefault(ids.tobytes(), len(distinct))
                if place == len(distinct):
                    distinct.append(ids)
                of_text[sentence] = place, not unknown
    scores = np.asarray(score(distinct), np.float64)
    if scores.shape != (len(distinct),) or np.isnan(scores).any():
        raise UserError(
            f"the scores of {len(distinct):,} sentences are not as many numbers (shape "
            f"{scores.shape}, {np.isnan(scores).sum():,} NaN): check the model's parameters."
        )
    groups = {}
    for item in items:
        groups.setdefault(item.construction, []).append([of_text[s] for s in item.sentences])
    rows = []
    for construction, group in groups.items():
        table = np.array(group)  # [items, sentences, (place, known)]
        values, known = scores[table[..., 0]], table[..., 1].all(1)
        roles = PAIR if values.shape[1] == 2 else TRIPLE
        for better, worse in _COMPARISONS[values.shape[1]]:
            right = values[:, roles.index(better)] > values[:, roles.index(worse)]
            counts = {
                "items": len(right),
                "right": int(right.sum()),
                "known_items": int(known.sum()),
                "known_right": int((right & known).sum()),
            }
            rows.append(_row(construction, better, worse, counts))
    return rows


def pooled(rows):
    """The rows of `evaluate` as the papers print them: animate and inanimate items together.

    Returns rows of the same kind, in the order of `PUBLISHED`, unknown constructions last;
    constructions are named as in `TITLES`.
    """
    sums = {}
    for row in rows:
        key = (_base(row["construction"]), row["better"], row["worse"])
        counts = sums.setdefault(key, dict.fromkeys(_COUNTS, 0))
        for name in _COUNTS:
            counts[name] += row[name]
    order = [key for key in PUBLISHED if key in sums]
    order += [key for key in sums if key not in PUBLISHED]
    return [_row(*key, sums[key]) for key in order]


def format_table(rows):
    """The rows of `evaluate` or `pooled` as a text table, in percent.

    Beside each stands what Shen et al. (2019) published for its construction, animate and
    inanimate items together.
    """
    names = [_name(row) for row in rows]
    width = max(map(len, names), default=0)
    lines = [
        f"{'':{width}} |      all items    | no unknown symbol | ON-LSTM  LSTM",
        f"{'':{width}} |   items  accuracy |  share  accuracy  | (published *)",
    ]
    for name, row in zip(names, rows, strict=True):
        known = row["known_accuracy"]
        known = "-" if known is None else f"{100 * known:.1f}"
        key = (_base(row["construction"]), row["better"], row["worse"])
        on_lstm, lstm = (
            "-" if value is None else f"{100 * value:.0f}"
            for value in PUBLISHED.get(key, (None, None))
        )
        lines.append(
            f"{name:{width}} | {row['items']:>7,}  {100 * row['accuracy']:>8.1f} | "
            f"{100 * row['known']:>6.1f}  {known:>8}  | {on_lstm:>7}  {lstm:>4}"
        )
    lines.append("* Shen et al. 2019, models trained on 80 million words of Wikipedia")
    return "\n".join(lines)


_COUNTS = ("items", "right", "known_items", "known_right")


def _row(construction, better, worse, counts):
    known = counts["known_items"]
    return {
        "construction": construction,
        "better": better,
        "worse": worse,
        **counts,
        "accuracy": counts["right"] / counts["items"],
        "known": known / counts["items"],
        "known_accuracy": counts["known_right"] / known if known else None,
    }


def _base(construction):
    return construction.removesuffix("_anim").removesuffix("_inanim")


def _name(row):
    name = TITLES.get(row["construction"], row["construction"])
    if (row["better"], row["worse"]) == PAIR and "npi" not in row["construction"]:
        return name
    return f"{name}: {row['better']} > {row['worse']}"
