"""What is in deploy/ fits the command, the API and the sources that it names."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from transunet.cli.main import app

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
API = "/api/v1"


def served(words):
    """The parameters that `transunet serve WORDS` sets."""
    command = get_command(app).commands["serve"]
    context = command.context_class(command, **command.context_settings)
    values, left, _ = command.make_parser(context).parse_args([str(word) for word in words])
    assert left == []
    return values


def instruction(name):
    """The last one of this name, its lines joined."""
    found = re.findall(rf"^{name} (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    return found[-1].replace("\\\n", " ")


def kubernetes():
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def routes():
    source = (ROOT / "src/transunet/serve/api/app.py").read_text()
    return {API + path for path in re.findall(r'\.get\("(/\w+)"', source)}


def test_the_image_starts_the_command():
    entry = json.loads(instruction("ENTRYPOINT"))
    assert entry[:2] == ["transunet", "serve"]
    values = served([*entry[2:], *json.loads(instruction("CMD"))])
    assert values["host"] == "0.0.0.0"
    assert values["port"] == instruction("EXPOSE")
    assert values["data"].startswith(instruction("VOLUME") + "/")
    assert values["bundles"][0].startswith("/bundles/")
    health = re.search(r"HEALTHCHECK.*?http://127\.0\.0\.1:(\d+)([\w/]+)", DOCKERFILE, re.DOTALL)
    assert health[1] == instruction("EXPOSE")
    assert health[2] in routes()


def test_the_image_is_made_of_what_is_there():
    extras = re.search(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE)[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in allowed
    assert (ROOT / "LICENSE").name in DOCKERFILE  # which the build of the package reads


def test_nobody_runs_it_as_root():
    user = instruction("USER").split(":")[0]
    pod = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(user) == pod["securityContext"]["fsGroup"]
    assert f"--uid {user}" in DOCKERFILE
    assert "DynamicUser=yes" in (DEPLOY / "transunet.service").read_text()


def test_compose_and_kubernetes_give_the_options_and_ask_the_routes():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["transunet"]
    served(service["command"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    cuda = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())["services"]["transunet"]
    for argument in cuda["build"]["args"]:
        assert f"ARG {argument}=" in DOCKERFILE
    (container,) = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert served(container["args"])["bundles"]
    assert container["livenessProbe"]["httpGet"]["path"] == f"{API}/health"
    assert container["readinessProbe"]["httpGet"]["path"] == f"{API}/ready"
    assert {f"{API}/health", f"{API}/ready"} <= routes()
    assert str(container["ports"][0]["containerPort"]) == instruction("EXPOSE")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {instruction("VOLUME"), "/tmp"}


def test_systemd_starts_the_command_where_it_may_write():
    lines = (DEPLOY / "transunet.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    program, command, *words = shlex.split(unit["ExecStart"])
    assert (Path(program).name, command) == ("transunet", "serve")
    state = f"/var/lib/{unit['StateDirectory']}/"
    assert served(words)["data"].startswith(state)
    assert unit["Environment"].startswith(f"TRANSUNET_CACHE={state}")
