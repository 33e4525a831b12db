"""What tests of pictures share."""

from hmrnn_jax.analysis.figures import style

PNG = b"\x89PNG\r\n\x1a\n"
NS = "{http://www.w3.org/2000/svg}"


def kept(monkeypatch):
    """The figures that will be saved, in order; the files are written as well."""
    figures, save = [], style.save

    def keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(style, "save", keep)
    return figures
