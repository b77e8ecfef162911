"""The llama.cpp server process: `python llama_child.py JSON`. Imports nothing of this library, so it starts fast."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import xllamacpp


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))  # pyright: ignore[reportAttributeAccessIssue]
    signal.pause()
    del server


def parameters(settings: dict[str, Any]) -> Any:
    """Return the llama.cpp parameters for the settings of a LlamaCppServer."""
    params = xllamacpp.CommonParams()  # pyright: ignore[reportAttributeAccessIssue]
    params.model.path = settings["path"]
    # At scale 0 they apply to those requests alone that name one. (`lora_init_without_apply` leaves the scale of all
    # others at 1.)
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 0.0)  # pyright: ignore[reportAttributeAccessIssue]
        for path in settings["adapters"]
    ]
    params.model_alias = {settings["alias"]}
    params.model_tags = {settings["tag"]}
    params.hostnames = ["127.0.0.1"]
    params.port = settings["port"]
    params.reuse_port = False  # otherwise two servers may silently share one port
    params.cors_origins = ""  # web pages must not reach it
    params.ui = False
    params.n_parallel = settings["slots"]
    # One cache for all slots, so that n siblings store their common prompt once; each slot is capped.
    params.kv_unified = True
    params.n_ctx = settings["slots"] * settings["context"]
    params.kv_unified_per_slot = settings["context"]
    params.cache_ram_mib = 0  # the default may take 8 GiB
    params.cont_batching = True
    params.endpoint_metrics = True
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    return params


if __name__ == "__main__":
    main()
