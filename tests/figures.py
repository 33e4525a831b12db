"""What tests of pictures share."""

from hmrnn_jax.analysis import signal_plots, stroke_plots

PNG = b"\x89PNG\r\n\x1a\n"
NS = "{http://www.w3.org/2000/svg}"


def kept(monkeypatch):
    """The figures that will be saved, in order; the files are written as well."""
    figures, save = [], signal_plots._save

    def keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(signal_plots, "_save", keep)
    monkeypatch.setattr(stroke_plots, "_save", keep)
    return figures
