"""Kinds of settings: what a value may be, how a command line writes it, what it means.

The fields of a configuration (`settings`) and the flags of the programs are of the same kinds. A
kind is a parser of absl's flags, and so makes a flag by itself.
"""

import ast
import difflib
import math
import numbers
import operator

import numpy as np
from absl import flags

from hmrnn_jax.errors import UserError

flags.disclaim_key_flags()  # a flag belongs to the program that defines it

MOST = 2**31 - 1  # of a whole number: what an int32 holds
WIDEST = 2**16  # units of a layer


class Field(flags.ArgumentParser):
    """A setting; its kinds say what a value must be.

    Attributes:
      meaning: one line, for the help.
      allowed: what follows "it must be".
      fixed: whether a run that has begun keeps its value, see `kept`.
    """

    allowed = ""
    fixed = False

    def __init__(self, meaning):
        self.meaning = meaning

    @property
    def syntactic_help(self):
        """As absl calls `allowed`."""
        return self.allowed

    def parse(self, argument):
        """The value of a text, or a value as it is. Raises `ValueError` if it is not allowed."""
        try:
            value = self.read(argument) if isinstance(argument, str) else argument
        except (ValueError, SyntaxError):
            value = None
        if value is None or not self.holds(value):
            raise ValueError(f"it must be {self.allowed}")
        return value

    def check(self, name, value):
        """Raises `UserError` unless `value`, of the setting `name`, is allowed."""
        if not self.holds(value):
            raise UserError(f"{name} is {value!r}; it must be {self.allowed}.")

    def read(self, text):
        """The value that a text stands for."""
        raise NotImplementedError

    def holds(self, value):
        """Whether a value is allowed."""
        raise NotImplementedError


def kept(field):
    """The field, as one whose value a run that has begun cannot change: it is `fixed`."""
    field.fixed = True
    return field


class Whole(Field):
    """A whole number from `low` to `high`."""

    def __init__(self, meaning, low=0, high=MOST):
        super().__init__(meaning)
        self.low, self.high = low, high
        self.allowed = f"a whole number from {low:,} to {high:,}"

    def read(self, text):
        return int(text)

    def holds(self, value):
        return _is_whole(value) and self.low <= value <= self.high


class Number(Field):
    """A number within its bounds, nan never, inf only if it may be `infinite`.

    It counts as the float32 that the devices get: what is too large or too small for one is
    infinite or 0.
    """

    def __init__(self, meaning, least=None, most=None, above=None, below=None, infinite=False):
        super().__init__(meaning)
        self._bounds = [
            (word, bound, within)
            for word, bound, within in (
                ("at least", least, operator.ge),
                ("above", above, operator.gt),
                ("at most", most, operator.le),
                ("below", below, operator.lt),
            )
            if bound is not None
        ]
        self._infinite = infinite
        limits = " and ".join(f"{word} {bound:g}" for word, bound, _ in self._bounds)
        self.allowed = f"a number {limits}" if limits else "a finite number"

    def read(self, text):
        return float(text)

    def holds(self, value):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        with np.errstate(over="ignore", under="ignore"):
            single = float(np.float32(value))
        finite = math.isfinite(single) or (self._infinite and value == math.inf)
        return finite and all(within(single, bound) for _, bound, within in self._bounds)


class Choice(Field):
    """One of some words."""

    def __init__(self, meaning, choices):
        super().__init__(meaning)
        self.choices = choices
        self.allowed = f"one of {', '.join(choices)}"

    def read(self, text):
        return text

    def holds(self, value):
        return isinstance(value, str) and value in self.choices


class Switch(Field):
    """True or False."""

    allowed = "true or false"
    _WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def read(self, text):
        return self._WORDS.get(text.lower())

    def holds(self, value):
        return isinstance(value, bool)


class Text(Field):
    """Any text; one that is not `empty`, if it must not be."""

    def __init__(self, meaning, empty=True):
        super().__init__(meaning)
        self._empty = empty
        self.allowed = "text" if empty else "a text that is not empty"

    def read(self, text):
        return text

    def holds(self, value):
        return isinstance(value, str) and (self._empty or bool(value)) and "\0" not in value


class Wholes(Field):
    """Up to `most` whole numbers from `low` to `high`, such as `8,8`; a tuple."""

    def __init__(self, meaning, low=0, high=MOST, most=64):
        super().__init__(meaning)
        self.low, self.high, self.most = low, high, most
        self.allowed = f"1 to {most} whole numbers from {low:,} to {high:,}, such as 8,8"

    def read(self, text):
        return tuple(int(part) for part in _parts(text))

    def holds(self, value):
        return (
            isinstance(value, tuple | list)
            and 0 < len(value) <= self.most
            and all(_is_whole(one) and self.low <= one <= self.high for one in value)
        )


class Numbers(Field):
    """Any number of numbers within the bounds of `Number`, such as `6,5`; a tuple."""

    def __init__(self, meaning, **bounds):
        super().__init__(meaning)
        self._one = Number(meaning, **bounds)
        self.allowed = f"numbers with commas between them, each {self._one.allowed}"

    def read(self, text):
        return tuple(float(part) for part in _parts(text))

    def holds(self, value):
        return isinstance(value, tuple | list) and all(map(self._one.holds, value))


class Names(Field):
    """Any number of names, such as `speed,brake`; a tuple."""

    allowed = "names with commas between them"

    def read(self, text):
        if text[:1] in ("(", "[", "'", '"'):
            value = ast.literal_eval(text)
            return (value,) if isinstance(value, str) else tuple(value)
        return tuple(_parts(text))

    def holds(self, value):
        return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)


def _parts(text):
    parts = text.strip("()[] ").split(",")
    return [part.strip() for part in parts if part.strip()]


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def flag(values, name, default, field):
    """Defines the flag `--name` of a kind in the `FlagValues`; given twice, the last counts."""
    boolean = isinstance(field, Switch)
    one = flags.Flag(
        field, flags.ArgumentSerializer(), name, default, field.meaning, boolean=boolean
    )
    return flags.DEFINE_flag(one, values)


def nearest(name, names):
    """The one of `names` that `name` was probably to be, or None: dots part a path."""
    names = sorted(names)
    below = [one for one in names if one.startswith(f"{name}.")]
    same = [one for one in names if one.rpartition(".")[2] == name.rpartition(".")[2]]
    close = below or same
    return next(iter(difflib.get_close_matches(name, close or names, 1, 0 if close else 0.6)), None)
