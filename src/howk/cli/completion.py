"""`howk completion`: the script that lets a shell complete howk's commands and options."""

import click
from click.shell_completion import get_completion_class

from howk.cli.options import json_option
from howk.cli.output import show

_INTO = {
    "bash": 'eval "$(howk completion bash)"  in ~/.bashrc',
    "zsh": 'eval "$(howk completion zsh)"  in ~/.zshrc',
    "fish": "howk completion fish > ~/.config/fish/completions/howk.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_INTO)))
@json_option
@click.pass_context
def completion(context: click.Context, shell: str, *, as_json: bool) -> None:
    """Print the script that completes howk's commands in a shell.

    \b
    bash:  eval "$(howk completion bash)"  in ~/.bashrc
    zsh:   eval "$(howk completion zsh)"  in ~/.zshrc
    fish:  howk completion fish > ~/.config/fish/completions/howk.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choice names what click has
    script = found(context.find_root().command, {}, "howk", "_HOWK_COMPLETE").source()
    if as_json:
        show({"shell": shell, "use": _INTO[shell], "script": script}, as_json=True)
    else:
        click.echo(script)
