"""Knows the commands and the options all of them share; must not know what any command does.

Each command lives in a module of its own that is imported when it is called, so that `--help` and
a build that has nothing to do stay quick.
"""

from __future__ import annotations

import importlib

import click

from buildgraph import __version__

# name -> (module, one line of help); the order is the order of `--help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("build", "Build targets, or a directory with a Dockerfile."),
    "test": ("test", "Run smoke tests: real containers from the images, and checks on them."),
    "push": ("push", "Build, test and push images."),
    "watch": ("watch", "Build, and build again what a change affects."),
    "run": ("run", "Run a target's image in a sandbox."),
    "shell": ("shell", "Open a shell in the file system of any step."),
    "plan": ("plan", "Say what would be built, and why, without building."),
    "explain": ("explain", "Say why a target's layers were or would be rebuilt."),
    "init": ("init", "Make a directory of Dockerfiles a workspace."),
    "import": ("import_", "Write a Boxfile for a compose file or a bake file."),
    "list": ("list", "List targets."),
    "query": ("query", "Ask what needs what, in Bazel's words."),
    "affected": ("affected", "List the targets that changes since a commit can change, and why."),
    "ci": ("ci", "Write what a CI system is to run."),
    "graph": ("graph", "Draw targets and their steps."),
    "diff": ("diff", "Say in what two images differ."),
    "history": ("history", "Say when a target was built and why, or what its image is made of."),
    "lint": ("lint", "Check Dockerfiles and Boxfiles."),
    "fmt": ("fmt", "Lay out Boxfiles."),
    "rules": ("rules", "List the kinds of target and their attributes."),
    "schema": ("schema", "Print a JSON Schema of Boxfile.yaml, for editors."),
    "lock": ("lock", "Pin images and Debian packages in Boxfile.lock."),
    "login": ("login", "Keep a name and a password for a registry."),
    "logout": ("logout", "Forget the name and the password of a registry."),
    "logs": ("logs", "Print what the services of a test wrote when it last ran."),
    "enter": ("enter", "Run a command in a container that `test --keep` holds."),
    "cache": ("cache", "Look at, shrink or check the store."),
    "replay": ("replay", "Run a failed step again, in the same sandbox."),
    "completion": ("completion", "Print a script that completes words in a shell."),
    "doctor": ("doctor", "Say what this machine offers and lacks."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, None where there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"buildgraph.cli.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Add "did you mean" to the error for an unknown command."""
        from buildgraph.errors import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(
                f"there is no command {args[0]!r}" + (f"; {hint}" if hint else ""), ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "BUILDGRAPH"},
)
@click.version_option(__version__, prog_name="buildgraph")
def cli() -> None:
    """make for container images: plain Dockerfiles, one graph, no daemon."""
