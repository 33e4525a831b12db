"""What headings call trained runs."""

from etils import epath

from hmrnn_jax import cells
from hmrnn_jax.training import settings

# Data that may be somebody's own, at a path.
OWN = ("text", "signals", "quatrains", "brent_text", "brent_phono")
# What data with a name of their own are called; others go by that name.
DATA = {
    "python_reference": "Python's language reference",
    "ptb_char": "Penn Treebank characters",
    "ptb_word": "Penn Treebank words",
    "enwik8": "enwik8 (Wikipedia)",
    "text8": "text8 (Wikipedia)",
    "tiny_shakespeare": "tiny Shakespeare",
    "wikitext2_word": "WikiText-2 words",
    "quatrains": "Chinese quatrains",
    "chinese_unsegmented": "Chinese without spaces",
    "chinese_simplified": "simplified Chinese",
    "brent_text": "Brent's speech to children, spelled",
    "brent_phono": "Brent's speech to children, phonemes",
    "iam_ondb": "IAM-OnDB handwriting",
    "oscillators": "synthetic oscillators",
    "scribbles": "synthetic scribbles",
    "logic": "logical inference",
    "images": "MNIST",
}
_MOST_LISTED = 3  # settings that tell two runs of one title apart


def title(config):
    """A run's model and data in words: "HM-LSTM 3 x 512 on Penn Treebank characters"."""
    sizes, data = tuple(config.model.sizes), config.data
    alike = len(sizes) > 1 and len(set(sizes)) == 1
    shape = f"{len(sizes)} x {sizes[0]}" if alike else " + ".join(map(str, sizes))
    model = f"{cells.MODULES[config.model.cell].NAME} {shape}"
    name = data.get("name", "") or config.task
    if name in OWN and data.path:
        return f"{model} on {epath.Path(data.path).name}"
    return f"{model} on {DATA.get(name, name)}"


def titles(configs):
    """`{folder: title}` of several runs, `{folder: config}`, no two alike.

    Where model and data are the same, the settings that differ follow; the folder's name, if
    these are none or many; its whole path, if even that is the same.
    """
    found = {folder: title(config) for folder, config in configs.items()}
    fields = {folder: settings.flat(config.to_dict()) for folder, config in configs.items()}
    for one in set(found.values()):
        same = [folder for folder in found if found[folder] == one]
        names = {name for folder in same for name in fields[folder]}
        differ = [n for n in sorted(names) if len({str(fields[f].get(n)) for f in same}) > 1]
        names_of = {folder: epath.Path(folder).name for folder in same}
        if len(set(names_of.values())) < len(same):
            names_of = {folder: str(folder) for folder in same}
        for folder in same if len(same) > 1 else ():
            listed = ", ".join(f"{n.rpartition('.')[2]} {fields[folder].get(n)}" for n in differ)
            few = 0 < len(differ) <= _MOST_LISTED
            found[folder] = f"{one}, {listed if few else names_of[folder]}"
    return found
