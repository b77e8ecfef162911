"""`pdr serve-model` and `pdr models`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

from pdr_dspy.cli.display import Display
from pdr_dspy.errors import ConfigError
from pdr_dspy.serving import CATALOGUE, LlamaCppServer, VLLMServer, discover


def serve(
    name: str,
    *,
    port: int,
    slots: int,
    context: int,
    vllm: dict[str, Any] | None,
    display: Display,
    adapters: Sequence[str] = (),
) -> None:
    """Serve until interrupted or terminated."""
    ended = threading.Event()
    server: Any
    if vllm is None:
        server = LlamaCppServer(
            name, slots=slots, context=context, port=port, progress=display.download, adapters=adapters
        )
    else:
        named = dict(_named_folder(adapter) for adapter in adapters)
        server = VLLMServer(name, max_model_len=context, port=port, adapters=named, **vllm)
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with display.status(f"starting {name}"):
            server.start()
        display.out.print(f"serving {server.model} at {server.api_base}")
        display.say(
            f"connect: pdr eval mine.py --api-base {server.api_base}   # or best.json, or a name in programs/\n"
            f'         pdr_dspy.serving.connect("{server.model}", "{server.api_base}")\n'
            "Ctrl-C stops it"
        )
        try:
            while not ended.wait(1.0):  # without a timeout, a signal delivered to another thread would not end the wait
                pass
        except KeyboardInterrupt:
            display.say("stopping")
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)


def _named_folder(adapter: str) -> tuple[str, str]:
    """The parts of NAME=FOLDER. Raises ConfigError for anything else."""
    name, given, folder = adapter.partition("=")
    if not (name.strip() and given and folder.strip()):
        raise ConfigError(f"`--adapter {adapter}` must be NAME=FOLDER, such as picker=runs/picker/adapter")
    return name.strip(), folder.strip()


def models(api_base: Sequence[str] | None, display: Display) -> None:
    """The models of a server, or the catalogue of weights."""
    if api_base:
        for name in discover(api_base):
            display.out.print(name, markup=False)
        return
    rows = [
        [name, f"{entry.size / 1e6:,.0f} MB", entry.licence, f"{entry.context_length:,}", entry.hub_repo]
        for name, entry in CATALOGUE.items()
    ]
    display.table("", ("model", "download", "licence", "context", "hub repository"), rows)
    for name, entry in CATALOGUE.items():
        if entry.unverified:
            display.say(f"{name}: {entry.unverified}")
