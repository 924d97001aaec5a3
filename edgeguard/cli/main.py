"""Entry point of `edgeguard`: a table of verbs, loaded when asked for, and the one place that prints errors.

Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 finding or verdict not ok, 2 usage,
3 environment missing, 4 integrity failure, 5 internal.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from edgeguard import __version__
from edgeguard.errors import EXIT_INTERNAL, EXIT_USAGE, EdgeGuardError

VERBS = {
    "demo": "pack, protect and run the example model on a simulated road under attack",
    "replay": "run the pipeline over a recording of real sensors",
    "watch": "show a rig in the terminal while it runs: verdict, trust, rates, drops, worst checks",
    "sim": "run attack and fault scenarios against the real pipeline, for people and for CI",
    "calibrate": "learn from a clean recording what this rig's checks are held against",
    "bench": "inject attacks into recordings and measure detection; count false alarms of a clean day",
    "warmup": "compile every kernel now, so that no frame waits for a compiler",
    "decode": "print what a raw capture of a sensor says, record by record",
    "scan": "scan model files before anything parses them: ONNX, pickle, PyTorch, NumPy, Keras, archives",
    "verify": "check a bundle's signature, digests and policy",
    "inspect": "show what a bundle says about itself, unverified",
    "find": "list attached sensors and what it takes to use them",
    "state": "show what this device remembers: floors, revocation list, time",
    "model": "install a model from a repository, try it, keep it or go back: two slots, nothing lost in a power cut",
    "log": "verify or show a tamper-evident log",
}


class LazyVerbs(click.Group):
    """Imports a verb's module only when that verb runs, so that --help stays fast on a small board."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"edgeguard.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            ctx.fail(f"no such verb: {args[0]}" + (f" (did you mean {near[0]}?)" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(
    cls=LazyVerbs, context_settings={"auto_envvar_prefix": "EDGEGUARD", "help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="edgeguard")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Harden AI perception on devices their owner does not control.

    Start with:  edgeguard demo
    """
    del debug  # read by main(), which prints errors


def run(group: click.Command, prog_name: str, argv: list[str] | None = None) -> int:
    """Run a click command and turn every outcome into an exit code; errors go to stderr with code and hint."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        outcome: Any = group.main(args=arguments, prog_name=prog_name, standalone_mode=False)
    except EdgeGuardError as error:
        if debug:
            traceback.print_exc()
        _complain(prog_name, str(error), error.hint)
        return error.exit_code
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        _complain(prog_name, "interrupted", "")
        return 130
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader of our output left (for example `| head`): that is its choice, not a failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(
            prog_name, f"internal error: {type(error).__name__}", "run again with --debug and report what it prints"
        )
        return EXIT_INTERNAL
    return outcome if isinstance(outcome, int) else 0


def _complain(prog_name: str, message: str, hint: str) -> None:
    click.echo(f"{prog_name}: error: {message}", err=True)
    if hint:
        click.echo(f"{prog_name}: hint: {hint}", err=True)


def main() -> None:
    """Console script."""
    sys.exit(run(cli, "edgeguard"))


if __name__ == "__main__":
    main()
