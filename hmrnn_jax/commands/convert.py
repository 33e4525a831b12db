"""Data that must be brought to another form before a run can read them."""

from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import file, say
from hmrnn_jax.datasets import iam_ondb_convert
from hmrnn_jax.training.fields import Switch


def convert(given):
    """Convert IAM-OnDB's official archives to the files that a run reads.

        hmrnn convert --raw=downloads/iam --output=$HMRNN_DATA/iam-ondb

    The folder --raw holds lineStrokes-all.tar.gz, ascii-all.tar.gz, or their unpacked folders, and
    the form lists of the task IAM-OnDB-t1. All four files are written, or none.
    """
    report = iam_ondb_convert.convert(given.raw, given.output, given.skip_broken)
    say(report.describe())
    names = ("lines", "forms", "points", "strokes")
    sizes = {name: dict(zip(names, of, strict=True)) for name, of in report.sizes.items()}
    return {"folder": given.output, "files": sizes, "skipped": len(report.faults)}


COMMANDS = {
    "convert": Command(
        convert,
        JSON
        | {
            "raw": (None, file("Folder of the archives and form lists.")),
            "output": (None, file("Folder for the four .npz files; made if it is not there.")),
            "skip_broken": (False, Switch("Leaves out lines that cannot be used, and names them.")),
        },
        needs=("raw", "output"),
    )
}
