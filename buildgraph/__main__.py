"""The program's door: answers a build that has nothing to do without loading the rest of it."""

import sys


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "build":
        from buildgraph.cli.unchanged import answer

        if answer(arguments):
            return
    from buildgraph.cli.main import cli

    cli()


if __name__ == "__main__":
    main()
