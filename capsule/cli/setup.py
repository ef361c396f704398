"""The verbs that set up: init, clone, doctor, completion."""

from __future__ import annotations

from pathlib import Path

import click

from capsule.cli.app import Globals
from capsule.cli.forge_options import forge_token_option, webhook_secret_option
from capsule.cli.notify import notify_dir_option
from capsule.cli.screen import Screen
from capsule.cli.shared import json_option, now
from capsule.cli.ssh_options import host_options, ssh_access
from capsule.commands.errors import FINDINGS


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--bare", is_flag=True, help="Without files to edit: for a server.")
@click.option(
    "--protect",
    "protected",
    is_flag=True,
    help="With --bare: refuse pushes that the policy does not authorise; see `capsule protect`.",
)
@click.option(
    "--principal", metavar="NAME", help="Your name in the policy (from your e-mail address by default)."
)
@click.option("--email", metavar="ADDRESS", help="Your e-mail address (git's user.email by default).")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CAPSULE_SIGNING_KEY",
    metavar="FILE",
    help="Your signing key (git's user.signingkey by default).",
)
def init(
    directory: Path, bare: bool, protected: bool, principal: str | None, email: str | None, key: Path | None
) -> None:
    """Create a state repository in DIR, which must be empty or not exist.

    You become its first owner and operator. A key for the reconciler is made beside the history, never in it.
    """
    from capsule.commands.init import init as create
    from capsule.commands.protect import protect

    if protected and not bare:
        raise click.UsageError("--protect goes with --bare: only a bare repository can be a server's")
    made = create(directory, now(), bare=bare, principal=principal, email=email, key=key)
    if protected:
        protect(made.directory, made.root)
    screen = Screen()
    screen.line(f"State repository {made.directory}", bold=True)
    screen.facts(
        [
            ("root", made.root),
            ("owner", made.principal),
            ("reconciler", f"{made.reconciler}, its key in {made.reconciler_key}"),
        ]
    )
    screen.line()
    screen.line("Write the root down somewhere else: everything is proved against it. Next:")
    if bare:
        screen.line(f"  capsule clone {directory} work --root {made.root}   # where people edit and sign")
        return
    screen.line(f"  cd {directory} && git switch -c first-service")
    screen.line("  $EDITOR services/my-service.yaml && capsule check")
    screen.line("  git add services && git commit -m 'Enrol my-service'")
    screen.line("  capsule propose && git switch main")
    screen.line("  capsule up        # the reconciler and the dashboard")
    screen.line("  capsule doctor    # whether anything is missing")


@click.command()
@click.argument("url", metavar="URL")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option(
    "--root", metavar="ID", help="Id of the first commit, as an owner told you; pinned in the clone."
)
@click.option(
    "--shallow",
    is_flag=True,
    help="Without the history of audit: for dashboards and CI. Nothing of the past can be proved there.",
)
@click.option("--bare", is_flag=True, help="Without files to edit.")
@click.pass_obj
def clone(options: Globals, url: str, directory: Path, root: str | None, shallow: bool, bare: bool) -> None:
    """Get the state repository at URL (ssh, https, a path) into DIR, which must be empty or not exist.

    The address is remembered as `origin`, the root as `git config capsule.root`, the file of a token by its
    name; a token itself never. After stock `git clone`, pin the root yourself; `capsule
    doctor` says how that clone gets the reconcilers' heartbeats.
    """
    from capsule.commands.clone import clone as get

    made = get(url, directory, options.token_file, root=root or options.root, shallow=shallow, bare=bare)
    screen = Screen()
    screen.line(f"State repository {made.directory}", bold=True)
    screen.facts(
        [("remote", made.remote), ("root", made.root if made.pinned else f"{made.root}, not pinned")]
    )
    if not made.pinned:
        screen.line()
        screen.line("Nobody vouched for the root. If an owner told you the same id:")
        screen.line(f"  git -C {made.directory} config capsule.root {made.root}")
    if shallow:
        screen.line()
        screen.line("The history of audit was left out. To prove it, get it:")
        screen.line(f"  git -C {made.directory} fetch --unshallow")


@click.command()
@host_options
@forge_token_option
@webhook_secret_option
@notify_dir_option
@click.option("--online", is_flag=True, help="Ask the forge, too, whether it answers to the token.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    ssh_config: Path | None,
    known_hosts: tuple[Path, ...],
    forge_token_file: Path | None,
    webhook_secret_file: Path | None,
    notify_dir: Path | None,
    online: bool,
    as_json: bool,
) -> None:
    """What is missing or unsafe in this set-up, and the command that mends it.

    Give it the files that the reconciler is given, and it looks at them, too. Exit code 1 when there is
    something to mend.
    """
    from capsule.commands.diagnosis import Given
    from capsule.commands.doctor import examine
    from capsule.view.model import as_json as value_of

    options: Globals = ctx.obj
    access = ssh_access((), ssh_config, known_hosts)
    given = Given(access, forge_token_file, webhook_secret_file, notify_dir, online)
    found = examine(options.directory, options.root, now(), given=given, token_file=options.token_file)
    screen = Screen()
    if as_json:
        screen.json([value_of(item) for item in found])
    else:
        marks = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "mend": ("MEND", "red")}
        for item in found:
            word, style = marks[item.verdict]
            screen.line(
                f"{word}  {item.message}{'' if item.verdict == 'ok' else f' [{item.reason}]'}", style=style
            )
            for line in item.remedy.split("\n") if item.remedy else ():
                screen.line(f"      {line}")
    if any(item.verdict == "mend" for item in found):
        ctx.exit(FINDINGS)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of your shell.

    \b
    bash: capsule completion bash > ~/.local/share/bash-completion/completions/capsule
    zsh:  capsule completion zsh > "${fpath[1]}/_capsule"
    fish: capsule completion fish > ~/.config/fish/completions/capsule.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    click.echo(kind(ctx.find_root().command, {}, "capsule", "_CAPSULE_COMPLETE").source())


COMMANDS = {"init": init, "clone": clone, "doctor": doctor, "completion": completion}
