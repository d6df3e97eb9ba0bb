"""The program's door: answers a build that has nothing to do without loading the rest of it."""

import gc
import os
import sys


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    # On a screen even the look at 40,000 files, which may find nothing to do, is waited for.
    on_screen = os.isatty(1) and os.isatty(2)
    if on_screen:
        from buildgraph.cli.first_word import greet

        greet(arguments, os.environ)
    if arguments and arguments[0] == "build":
        from buildgraph.cli.unchanged import answer

        if answer(arguments):
            return
    if arguments and arguments[0] == "run":
        from buildgraph.cli.again import leave, run_again

        code = run_again(arguments)
        if code is not None:
            leave(code)
    if arguments and arguments[0] in ("list", "query", "affected"):
        from buildgraph.cli import known

        gc.disable()  # it ends in a moment
        if known.answer(arguments):
            return
        gc.enable()
    if arguments and arguments[0] == "__complete":
        from buildgraph.cli import completing

        completing.answer(arguments[1:])
        return
    if not on_screen:
        from buildgraph.cli.first_word import greet

        greet(arguments, os.environ)
    # A graph is hundreds of thousands of small objects that live to the end: looking through them
    # again and again for circles took a third of planning 100,000 nodes.
    gc.set_threshold(50_000, 20, 50)
    from buildgraph.cli.main import cli

    cli()


if __name__ == "__main__":
    main()
