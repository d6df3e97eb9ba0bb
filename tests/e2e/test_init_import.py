"""A repository of Dockerfiles becomes a workspace that builds."""

from __future__ import annotations

from e2e.harness import Workspace

BAKE = """
variable "V" { default = "7" }
group "default" { targets = ["app"] }
target "_common" { args = { V = V } }
target "app" {
  inherits = ["_common"]
  context = "app"
  contexts = { "acme/base" = "target:base" }
}
target "base" { context = "base" }
target "odd" { context = "base"
  tags = ["x:{{y}}"]
  cache-from = ["type=gha"] }
"""


def repository(workspace: Workspace) -> None:
    workspace.write("base/f", "1")
    workspace.write("base/Dockerfile", "FROM scratch\nCOPY f /base/f\n")
    workspace.write("app/g", "2")
    workspace.write("app/Dockerfile", "FROM acme/base\nARG V\nENV V=$V\nCOPY g /g\n")


def test_init_links_what_belongs_together(workspace: Workspace) -> None:
    repository(workspace)
    workspace.write("app/Dockerfile.tools", "FROM tools-base\n")
    workspace.write("Makefile", "all:\n\tdocker build -t acme/base:$(V) base\n")
    workspace.write("node_modules/x/Dockerfile", "FROM scratch\n")
    before = workspace.run("init", "--dry-run").stdout
    assert "# app/Boxfile.yaml" in before
    assert not workspace.path("Boxfile.yaml").exists()
    said = workspace.run("init").stdout
    assert "//app: acme/base is //base:image, by its tag acme/base:$(V)" in said
    assert not workspace.path("base/Boxfile.yaml").exists(), "its Dockerfile says it all"
    assert workspace.run("list").stdout.split()[::2] == ["//app", "//app:tools", "//base"]
    built = workspace.build("//app", "-o", "type=tar,dest=x.tar")
    assert len(built.built) == 2
    again = workspace.run("init").stdout
    assert "app/Boxfile.yaml is there already and stays as it is" in again


def test_init_says_of_which_file_a_target_is_made(workspace: Workspace) -> None:
    workspace.write("app/Dockerfile.image", "FROM scratch\nLABEL a=b\n")
    workspace.run("init")
    assert "dockerfile: Dockerfile.image" in workspace.read("app/Boxfile.yaml")
    assert workspace.run("list").stdout.split()[0] == "//app"


def test_import_of_a_bake_file_builds(workspace: Workspace) -> None:
    repository(workspace)
    workspace.write("docker-bake.hcl", BAKE)
    result = workspace.run("import", "docker-bake.hcl")
    assert "cache-from = type=gha" in result.stderr
    assert "V: \"{{ env.V | default('7') }}\"" in workspace.read("Boxfile.yaml")
    assert workspace.run("list").stdout.count("image") == 5  # and app/, base/ as they are
    built = workspace.build("//:default")
    assert len(built.built) == 2
    assert set(built.digests) == {"//:app"}
    other = workspace.build("//:default", env={"V": "8"})
    assert other.digests != built.digests, "what bake takes from the environment"
    refused = workspace.run("import", "docker-bake.hcl", expect=2)
    assert "is there already" in refused.stderr


def test_import_of_a_compose_file_builds(workspace: Workspace) -> None:
    repository(workspace)
    workspace.write(
        "compose.yaml",
        "services:\n  base: {build: base}\n  app:\n    build:\n      context: app\n"
        "      additional_contexts: {acme/base: 'service:base'}\n      args: {V: 8}\n"
        "    image: acme/app\n  db: {image: postgres}\n",
    )
    out = workspace.run("import", "compose.yaml", "--dry-run").stdout
    assert "# the service db builds nothing: postgres" in out
    workspace.run("import", "compose.yaml")
    assert set(workspace.build("//:app").digests) == {"//:app"}


def test_a_call_in_a_bake_file_is_refused_with_its_place(workspace: Workspace) -> None:
    workspace.write("docker-bake.hcl", 'target "a" {\n  tags = [upper("x")]\n}\n')
    said = workspace.run("import", "docker-bake.hcl", expect=2).stderr
    assert "docker-bake.hcl:2:11" in said
    assert "upper()" in said


def test_init_below_a_workspace_and_below_a_repository(workspace: Workspace) -> None:
    repository(workspace)
    workspace.path(".git").mkdir()
    workspace.run("init", "app")
    assert "workspace:" in workspace.read("app/Boxfile.yaml")
    workspace.write("app/inner/Dockerfile", "FROM scratch\n")
    said = workspace.run("init", "app/inner", expect=2).stderr
    assert "is in the workspace" in said
