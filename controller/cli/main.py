"""The command `penstock`. Subcommands are imported when they are used, so that each starts quickly."""

from __future__ import annotations

import importlib
import importlib.util

import click

from penstock import __version__

# Name: module with a click command of that name, and its line in `penstock --help`.
_COMMANDS = {
    "up": ("controller.cli.up", "Start a fleet on this machine."),
    "status": ("controller.cli.status", "Show gateways, workers and what is degraded."),
    "top": ("controller.cli.top", "Show the fleet live."),
    "scale": ("controller.cli.actions", "Set the number of workers."),
    "drain": ("controller.cli.actions", "Take one worker out, without losing a request."),
    "explain": ("controller.cli.actions", "Say why a request went where it went."),
    "rollout": ("controller.cli.rollout", "See a roll-out on a cluster, and take it back."),
    "doctor": ("controller.cli.doctor", "Say what a cluster lacks for serving."),
    "gateway": ("controller.cli.gateway", "Run one gateway in front of any OpenAI-compatible servers."),
    "chat": ("controller.cli.chat", "Send a prompt and print the answer as it comes."),
    "replay": ("controller.cli.replay", "Replay a trace and measure."),
    "calibrate": ("controller.cli.calibrate", "Measure a server and fit an engine profile."),
    "simulate": ("controller.cli.simulate", "Play a trace on a simulated fleet."),
}


class _Lazy(click.Group):
    """A group that imports a subcommand when it is called; its help does not import any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those whose module is installed, in the order of use."""
        return [name for name, (module, _) in _COMMANDS.items() if importlib.util.find_spec(module)] + ["version"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, or None."""
        if cmd_name == "version":
            return version
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(_COMMANDS[cmd_name][0])
        except ModuleNotFoundError as exc:
            raise click.ClickException(
                f"`penstock {cmd_name}` needs {exc.name}: install the extra that holds it (`penstock[all]`)"
            ) from exc
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and lines from the table."""
        rows = [
            (name, _COMMANDS[name][1] if name in _COMMANDS else "Print the version.")
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="penstock")
def main() -> None:
    """Penstock: a control plane for LLM serving."""


if __name__ == "__main__":
    main()
