"""The front door: picks the subcommand, imports only that one, and turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import sys

import click

from scheduler.errors import GlmPlanError, printable

# name -> (module that holds a click command called `command`, one-line help). Data, so that --help
# imports none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("runtime.cli.plan", "Decide which blocks live on the GPU and which on the CPU."),
    "run": ("runtime.cli.run", "Answer one prompt, streamed."),
    "chat": ("runtime.cli.chat", "Talk with a model in the terminal."),
    "serve": ("runtime.cli.serve", "Serve a model over HTTP with OpenAI's API."),
    "devices": ("runtime.cli.devices", "Show GPUs, CPU, memory and the backends that really work."),
    "doctor": ("runtime.cli.doctor", "Check machine, installation, a model and a plan."),
    "report": ("runtime.cli.report", "Tell what fits where, how fast, and what to change."),
    "bench": ("runtime.cli.bench", "Measure how fast a model runs here."),
    "calibrate": ("runtime.cli.calibrate", "Measure how fast this machine runs real blocks."),
    "models": ("runtime.cli.models", "List the models that a plan can be made for."),
    "gpus": ("runtime.cli.gpus", "List GPUs with their published figures."),
    "pull": ("runtime.cli.pull", "Fetch a model from a Hugging Face hub."),
    "export": ("runtime.cli.export", "Turn a checkpoint into a bundle that can be split."),
    "cluster": ("runtime.cli.cluster", "Look at models that run on several machines."),
    "bundle": ("runtime.cli.bundle", "Look into exported models, check and compare them."),
    "demo": ("runtime.cli.demo", "Plan, export, split and run the tiny model, end to end."),
}


class _LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports a module only when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="glm-plan", prog_name="glm-plan")
def cli() -> None:
    """Run a language model that does not fit: blocks on the GPU, the rest on the CPU.

    Without a subcommand, glm-plan plans: `glm-plan --vram 11` is `glm-plan plan --vram 11`.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Codes: 0 done, 1 a device or worker failed, 2 bad input, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words = ["plan", *words]
    try:
        cli.main(args=words, prog_name="glm-plan", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"glm-plan: {printable(error.format_message())}", err=True)
        sys.exit(error.exit_code)
    except GlmPlanError as error:
        click.echo(f"glm-plan: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) went away; leave without the interpreter's complaint on flush.
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = printable(f"{error.filename}")[:60]
        click.echo(f"glm-plan: the path {name}... is longer than a name may be here.", err=True)
        sys.exit(2)
