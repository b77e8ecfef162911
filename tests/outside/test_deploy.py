"""What docs/deploy.md and deploy/ say works: the Python runs, and every option that they name is one of `pdr serve`."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest
import yaml
from typer.testing import CliRunner

import pdr_dspy
from pdr_dspy import connect
from pdr_dspy.cli import app as cli
from tests.endpoint.conftest import pdr
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy.md"
FILES = [PAGE, ROOT / "deploy" / "pdr-serve.service", ROOT / "deploy" / "Containerfile"]


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with MockServer(lambda body, seed: "So.\nAnswer: 42") as model:
        lm = connect("mock", model.api_base)
        with EndpointServer(pdr_dspy.app({"best": pdr()}, lm=lm)) as server:
            names: dict[str, object] = {}
            exec(code.replace("http://127.0.0.1:8080/v1", server.api_base), names)
        lm.close()
    client = names["client"]
    assert isinstance(client, openai.OpenAI)
    client.close()
    shown = capsys.readouterr().out
    assert shown.startswith("42 CompletionUsage(")
    assert "'B_total': " in shown


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_option_is_one_of_the_command(file: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    known = set(re.findall(r"--[a-z][a-z-]+", shown))
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition("pdr serve")[2] for line in text.splitlines() if "pdr serve " in line]
    lines += re.findall(r'ENTRYPOINT \["pdr", "serve", (.*)\]', text)
    named = {option for line in lines for option in re.findall(r"--[a-z][a-z-]+", line)}
    named |= {option for option in re.findall(r"`(--[a-z][a-z-]+)", text) if option != "--max-model-len"}
    assert named
    assert named <= known


def test_the_job_for_kuberay_is_one_of_the_command() -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    command, name, *_ = entrypoint = job["spec"]["entrypoint"].split()
    shown = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    assert command == "pdr"
    assert {word for word in entrypoint if word.startswith("--")} <= set(re.findall(r"--[a-z][a-z-]+", shown))
    (folder,) = (entrypoint[place + 1] for place, word in enumerate(entrypoint) if word == "--run-dir")
    cluster = job["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert any(Path(folder).is_relative_to(mount) for mount in mounts), "all pods see the run folder"


def test_the_service_leaves_more_time_than_the_drain() -> None:
    unit = FILES[1].read_text(encoding="utf-8")
    drain, stop = re.search(r"--drain (\d+)", unit), re.search(r"TimeoutStopSec=(\d+)", unit)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) > int(drain[1])


def test_links_of_the_page_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / link).exists(), link
