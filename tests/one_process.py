"""One of several processes, whose devices come in turns, as those of a TPU's torus may.

    python tests/one_process.py TEXT WORKDIR [COORDINATOR PROCESSES PROCESS]

Trains, and prints a line of JSON: what this process saw.
"""

import json
import os
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from hmrnn_jax import defaults, parallel
from hmrnn_jax.training import loop

BATCH = 16


def config(text):
    """A run that makes little of the order in which sums are added up, soon compiled."""
    config = defaults.text()
    config.model.cell, config.model.head, config.model.sizes = "lstm", "plain", (8,)
    config.model.embedding = 8
    config.batch = config.evaluation.batch = BATCH
    config.window = config.evaluation.window = config.evaluation.warmup = 20
    config.steps, config.evaluation.every, config.report = 6, 3, 2
    config.data.name, config.data.path, config.finish = "text", str(text), "metrics"
    return config


def in_turns(devices):
    """The first device of each process, the second of each, and so on."""
    place, found = {}, {}
    for device in devices:
        place[device] = found[device.process_index] = found.get(device.process_index, -1) + 1
    return sorted(devices, key=lambda device: (place[device], device.process_index))


def main(text, workdir, *told):
    # JAX sets it where there is no TPU, and then asks no metadata server.
    os.environ.pop("TPU_SKIP_MDS_QUERY", None)
    parallel.initialize(*told[:1], *map(int, told[1:]))
    devices, make_mesh = in_turns(jax.devices()), parallel.make_mesh
    parallel.make_mesh = lambda: make_mesh(devices)
    mesh = parallel.make_mesh()
    mine = parallel.local_rows(BATCH, mesh)
    numbers = np.arange(BATCH, dtype=np.int32)[mine]
    batch = parallel.shard_batch((numbers, np.stack([numbers, numbers])), mesh)
    rows = [multihost_utils.process_allgather(part, tiled=True).tolist() for part in batch]
    processes, process = jax.process_count(), jax.process_index()
    asked = [parallel.any_process(process == number) for number in (0, processes - 1, processes)]
    say = (lambda line: None) if process else print
    result = loop.train(config(text), workdir, say)
    seen = {"owners": [device.process_index for device in devices], "any": asked}
    print(json.dumps(seen | {"process": process, "rows": rows, "result": result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
