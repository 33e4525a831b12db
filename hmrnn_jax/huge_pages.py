"""Memory in huge pages, for the programs: glibc is asked for them before Python begins."""

import contextlib
import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use():
    """Begins this program anew with memory in huge pages, where Linux gives them to who asks.

    XLA allocates what a step needs at each update, and Linux provides it in pages of 4 kB, each
    by a fault, unless it is asked for pages of 2 MB. glibc asks, since version 2.35, if the
    environment variable GLIBC_TUNABLES says so when the process begins. Nothing is done where that
    variable has a choice already (`glibc.malloc.hugetlb=0`: pages of 4 kB), nor under a debugger.
    """
    given, script = os.environ.get("GLIBC_TUNABLES", ""), sys.modules["__main__"]
    asked = TUNABLE in given or not _on_request()
    if asked or sys.gettrace() or not os.path.isfile(getattr(script, "__file__", None) or ""):
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [given, f"{TUNABLE}=1"]))
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _on_request():
    try:
        return "[madvise]" in ENABLED.read_text()
    except OSError:
        return False
