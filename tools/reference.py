#!/usr/bin/env python3
"""Write the reference pages from what they describe: the schema, the messages, the ledger's words, the programs.

tools/reference.py           writes docs/reference/*.md
tools/reference.py --check   writes nothing, exits 1 and names the pages that are not as they should be
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by tools/reference.py (`make docs`): do not edit. -->\n"

sys.path.insert(0, str(ROOT))

from protocol import ledger, messages, schema  # noqa: E402
from protocol.filter import names  # noqa: E402


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
        )
        + "\n"
    )


def fields_page() -> str:
    """What can be shown and filtered by, and what is stored."""
    parts = [
        "# Fields\n",
        "The public names of every table, Wireshark's where Wireshark has one. `nodetap fields` asks a hub for the",
        "same. A field is absent from a row where the frame has no such thing.\n",
    ]
    for name, of in schema.TABLES.items():
        parts.append(f"## `nodetap {name}`\n")
        parts.append(table(("field", "kind", "meaning"), ((f"`{f.name}`", f.kind, f.doc) for f in of.fields)))
    parts.append("## Only in filters\n")
    extra = sorted(set(names.names_of("packets")) - set(schema.fields_of("packets")))
    described = ((name, *names.described(name, "packets")) for name in extra)
    parts.append(table(("field", "kind", "meaning"), ((f"`{name}`", kind, doc) for name, kind, doc, _ in described)))
    parts.append("## Stored columns\n")
    parts.append("One column may stand behind several fields; `layers` says which of them a row has.\n")
    for name, of in schema.TABLES.items():
        columns = ((f"`{c.name}`", c.wire, c.clickhouse, c.doc) for c in (*schema.ORIGIN, *of.columns))
        parts.append(f"### {name}\n")
        parts.append(table(("column", "on the wire", "in the store", "meaning"), columns))
    return "\n".join(parts)


def messages_page() -> str:
    """The messages between agent and hub."""
    drawing = inspect.getdoc(messages) or ""
    parts = [
        "# Messages\n",
        "Each message is one msgpack map in one binary WebSocket frame; key `t` is its type word. Unknown keys are",
        "dropped and counted, an unknown type word is refused.\n",
        "```\n" + "\n".join(line[4:] for line in drawing.splitlines() if line.startswith("    ")) + "\n```\n",
    ]
    for word, (kind, sender) in messages.MESSAGES.items():
        parts.append(f"## `{word}` (sent by the {sender})\n\n{inspect.getdoc(kind)}\n")
        rows = ((f"`{f.name}`", str(f.type), _default(f)) for f in dataclasses.fields(kind))
        parts.append(table(("key", "type", "default"), rows))
    return "\n".join(parts)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    return "required" if field.default_factory is dataclasses.MISSING else "empty"


def ledger_page() -> str:
    """The words of the books."""
    return "\n".join(
        [
            "# Words of the ledger\n",
            "`captured = row + flow_only + lost + quarantined + pending`, packets, per agent and run (epoch).\n",
            "## Reasons of loss\n",
            table(("reason", "meaning"), ((f"`{k}`", v) for k, v in ledger.LOST.items())),
            "## Reasons of discarding (never captured)\n",
            table(("reason", "meaning"), ((f"`{k}`", v) for k, v in ledger.DISCARDED.items())),
        ]
    )


def link_page() -> str:
    """The link's states: the table, and the diagram drawn from it."""
    from agent.uplink import machine

    events: dict[tuple[str, str], list[str]] = {}
    for (old, event), (new, _) in machine.TABLE.items():
        events.setdefault((str(old), str(new)), []).append(str(event))
    arrows = [f"    {old} --> {new}: {', '.join(names)}" for (old, new), names in events.items()]
    diagram = "\n".join(["stateDiagram-v2", f"    [*] --> {machine.FIRST[0]}", *arrows, "    stopped --> [*]"])
    rows = [
        (str(old), str(event), str(new), ", ".join(map(str, commands)))
        for (old, event), (new, commands) in machine.TABLE.items()
    ]
    head = "# States of the link\n\nWhat is not in the table cannot happen; if it does, that is a bug, and it raises.\n"
    return f"{head}\n```mermaid\n{diagram}\n```\n\n" + table(("state", "event", "next", "commands"), rows)


def program_page(name: str, where: str) -> str:
    """One program's commands and options."""
    module, _, attribute = where.partition(":")
    found = importlib.import_module(module)
    command = next(c for c in (getattr(found, attribute), getattr(found, "cli", None)) if isinstance(c, click.Command))
    return "\n".join([f"# `{name}`\n", *_commands(click.Context(command, info_name=name), top=True)])


def _commands(ctx: click.Context, top: bool = False) -> Iterator[str]:
    """A command's section and those of its subcommands."""
    if not top:
        yield f"## `{ctx.command_path}`\n"
    yield "```\n" + " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)]) + "\n```\n"
    yield inspect.cleandoc(ctx.command.help or "").replace("\b\n", "") + "\n"
    options = [p for p in ctx.command.get_params(ctx) if isinstance(p, click.Option) and "--help" not in p.opts]
    if options:
        yield table(("option", "environment", "default", "meaning"), map(_option, options))
    if ctx.command.epilog:
        yield ctx.command.epilog + "\n"
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            child = ctx.command.get_command(ctx, name)
            if child is not None and not child.hidden:
                yield from _commands(click.Context(child, parent=ctx, info_name=name))


def _option(option: click.Option) -> tuple[str, str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    environment = f"`{option.envvar}`" if isinstance(option.envvar, str) else ""
    more = " (repeatable)" if option.multiple else ""
    return f"{names} {_values(option)}".strip(), environment, _shown_default(option), (option.help or "") + more


def _values(option: click.Option) -> str:
    """What an option takes, empty for a flag."""
    if option.is_flag:
        return ""
    choices = option.type.to_info_dict().get("choices")
    return "|".join(choices) if choices else option.metavar or option.type.name.upper()


def _shown_default(option: click.Option) -> str:
    """The default where it is a plain value; never one that depends on this machine."""
    if isinstance(option.show_default, str):
        return option.show_default
    if option.is_flag or option.required or callable(option.default):
        return "required" if option.required else ""
    return "" if not isinstance(option.default, (str, int, float)) else str(option.default)


def metrics_page() -> str:
    """What Prometheus scrapes."""
    from tools import metrics_page

    header = ("metric", "kind", "labels", "meaning")
    parts = [
        "# Metrics\n",
        "`/metrics` of the agent (`--metrics`) and of the hub's API, in Prometheus' text format. Counters begin",
        "at 0 with each start. [Kubernetes](../kubernetes.md#watch) lists the alerts.\n",
        "## `nodetap-agent`\n",
    ]
    for title, metrics in metrics_page.agent_metrics().items():
        parts += [f"### {title}\n", table(header, metrics_page.rows(metrics))]
    parts += ["## `nodetap-hub`\n", "`nodetap_hub_agent_*` are of connected agents, as those measure them.\n"]
    return "\n".join([*parts, table(header, metrics_page.rows(metrics_page.hub_metrics()))])


def pages() -> dict[str, Callable[[], str]]:
    """File name -> what makes its text."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    made: dict[str, Callable[[], str]] = {
        "fields.md": fields_page,
        "messages.md": messages_page,
        "ledger.md": ledger_page,
        "link.md": link_page,
        "metrics.md": metrics_page,
    }
    return made | {
        f"{name}.md": lambda name=name, where=where: program_page(name, where) for name, where in scripts.items()
    }


def text_of(name: str) -> str:
    """The page `name` as it should be."""
    return NOTE + "\n" + pages()[name]()


def main() -> int:
    """Write the pages, or with --check compare them."""
    wrong = [name for name in pages() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text_of(name)]
    if "--check" in sys.argv[1:]:
        print(
            "\n".join(f"docs/reference/{name} is out of date: run `make docs`" for name in wrong),
            end="\n" if wrong else "",
        )
        return 1 if wrong else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wrong:
        (FOLDER / name).write_text(text_of(name))
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
