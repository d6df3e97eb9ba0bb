"""Knows the scripts that make a shell ask us what a word may become; must not know the answers.

The scripts call `buildgraph __complete SHELL LINE`, which prints a word a line, with a tab and a
few words about it for shells that show them.
"""

from __future__ import annotations

from typing import Final

import click

from buildgraph.cli.entry import guarded

_BASH: Final = r"""# bash completion of buildgraph:  source <(buildgraph completion bash)
_buildgraph() {
    local line word
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" \
        "$COMP_WORDBREAKS" 2>/dev/null)
    for word in "${COMPREPLY[@]}"; do
        if [[ $word == *[/:] ]] && type compopt >/dev/null 2>&1; then
            compopt -o nospace 2>/dev/null
        fi
    done
}
complete -o bashdefault -o default -F _buildgraph buildgraph
"""

_ZSH: Final = r"""#compdef buildgraph
# zsh completion of buildgraph:  source <(buildgraph completion zsh)
_buildgraph() {
    local line tab=$'\t'
    local -a whole open whole_said open_said
    while IFS= read -r line; do
        local word="${line%%$tab*}"
        local said="${word}  ${line#*$tab}"
        if [[ $word == *[/:] ]]; then
            open+=("$word"); open_said+=("$said")
        else
            whole+=("$word"); whole_said+=("$said")
        fi
    done < <("${words[1]}" __complete zsh "${(j: :)${(@)words[1,CURRENT]}}" 2>/dev/null)
    (( $#whole + $#open )) || { _files; return }
    (( $#whole )) && compadd -l -d whole_said -a whole
    (( $#open )) && compadd -l -S '' -d open_said -a open
}
compdef _buildgraph buildgraph
"""

_FISH: Final = r"""# fish completion of buildgraph:  buildgraph completion fish | source
function __buildgraph_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete fish (string join ' ' -- $words) 2>/dev/null
end
complete -c buildgraph -a '(__buildgraph_complete)'
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
@guarded
def command(shell: str) -> None:
    """Print the script that completes commands, options and labels in a shell.

    For bash: source <(buildgraph completion bash); for zsh the same; for fish: buildgraph
    completion fish | source.
    """
    click.echo(SCRIPTS[shell], nl=False)
