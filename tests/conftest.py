"""Before JAX starts: eight virtual CPU devices, quick compilation, a cache for what recurs."""

import contextlib
import os
import shutil
import signal
import tempfile
from importlib.metadata import version

# Compiling is nearly all of the suite's time. Whole programs, started apart, inherit this; flags of
# one's own stay, so that `XLA_FLAGS= pytest` tests what users run.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):
        # Three times as fast; later versions lack it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Where in the Python each operation came from: a seventh of the time, for nobody.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Nothing is left in the user's own.
os.environ["HMRNN_CACHE"] = tempfile.mkdtemp()
# Started in the background, the suite and what it starts would ignore a Control-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from command_lines import hmrnn  # noqa: E402
from etils import epath  # noqa: E402
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
# A folder of one's own is kept from one run of the tests to the next.
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.mkdtemp()
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

WORDS = "the cat sat on a mat and then it went to see who was there by sun light again".split()


def pytest_collection_modifyitems(items):
    """Whole programs and trainings first: the longest files must not run last, one at a time."""
    long = ("notebooks", "test_train", "test_tasks_words", "test_tpu_kernel.py", "test_recurrence")

    def is_short(item):
        if item.get_closest_marker("whole_program"):
            return False
        return not any(name in item.nodeid for name in long)

    items.sort(key=is_short)


@pytest.fixture(autouse=True, scope="module")
def room():
    """Forgets what is compiled before a process has no room for more.

    Every program takes some maps of the process's memory, of which Linux gives 65,530; XLA crashes
    beyond them.
    """
    yield
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as file:
        if sum(1 for _ in file) > 25_000:
            jax.clear_caches()


@pytest.fixture
def train_says(capsys, monkeypatch):
    """`(status, the configuration or what stderr says)` of `hmrnn train`'s arguments."""
    from hmrnn_jax.training import loop

    taken = []
    # A result: None would be a run that a signal stopped.
    monkeypatch.setattr(loop, "train", lambda config, *_, **__: taken.append(config) or {})

    def says(*arguments):
        status = hmrnn("train", *arguments)
        error = capsys.readouterr().err
        return status, taken.pop() if status == 0 else error

    return says


@pytest.fixture
def hmrnn_says(capsys, monkeypatch, tmp_path):
    """`(status, what stderr says)` of a command line of `hmrnn`, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def says(*arguments, **how):
        status = hmrnn(*arguments, **how)
        return status, capsys.readouterr().err

    return says


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, driven by selenium; where they are not there tests are skipped."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="needs selenium: pip install '.[dev]'"
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver: apt install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page of some data; no error may stand in the console after."""
    from hmrnn_jax.explorer import page

    def open_page(found):
        page.write(tmp_path / "page.html", found)
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield open_page
    assert [line["message"] for line in browser.get_log("browser")] == []


@pytest.fixture
def bucket(monkeypatch):
    """`gs://bucket/run`, held in memory."""

    class Memory(MemoryFileSystem):
        store, pseudo_dirs = {}, [""]
        protocol = "gcs"

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://"))

        def rename(self, source, target, **more):
            self.mv(source, target, **more)

    path = epath.Path("gs://bucket/run")
    memory = Memory()
    monkeypatch.setattr(type(path._backend), "fs", lambda self, path: memory)
    return path


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    """A run's folder that is not there yet, of both kinds."""
    return (
        epath.Path(tmp_path / "run")
        if request.param == "local"
        else request.getfixturevalue("bucket")
    )


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# A small training of characters


@pytest.fixture
def two_devices(monkeypatch):
    """Two of the suite's eight virtual devices: two cores run those in reasonable time."""
    from hmrnn_jax import parallel

    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:2]))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A stream of words from a fixed list, without separators."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(np.random.default_rng(0).choice(WORDS, 6000)))
    return path


@pytest.fixture
def config(text):
    from hmrnn_jax import defaults

    config = defaults.text()
    config.data.name, config.data.path = "text", str(text)
    config.model.sizes, config.model.output, config.model.embedding = (16, 12, 8), 16, 8
    config.batch = config.evaluation.batch = 8
    config.window = config.evaluation.window = 20
    config.evaluation.warmup, config.evaluation.every = 20, 6
    config.steps, config.report = 12, 4
    config.slope.increment = 0.5
    config.learning_rate = 1e-2
    return config


@pytest.fixture
def quick(config):
    """A model that compiles sooner, where what is kept of a run matters and not what it learns."""
    config.model.cell, config.model.sizes, config.model.head = "lstm", (8,), "plain"
    return config
