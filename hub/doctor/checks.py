"""The checks: tables of what is looked at on an agent, in the hub, and where the person sits. Pure.

Facts of an agent are those of `agent.doctor`, with what the hub adds: `verdict`, `evidence`, `hub_software`, `now` (s).
"""

from __future__ import annotations

from datetime import UTC, datetime
from ssl import cert_time_to_seconds

from hub.doctor.finding import BAD, OK, WARN, Check, Facts, Said, apart, by_limit, size, span

CLOCK_WARN, CLOCK_BAD = 2.0, 60.0
"""Seconds that a clock may be off."""
DROPS_WARN, DROPS_BAD = 1e-4, 1e-2
"""Share of the packets that the kernel may drop."""
CERTIFICATE_WARN, CERTIFICATE_BAD = 14 * 86_400, 3 * 86_400
"""Seconds that a certificate should last."""
DISK_WARN, DISK_BAD = 0.10, 0.03
"""Share of a disk that should be free."""
MEMORY_WARN, MEMORY_BAD = 0.80, 0.95
"""Share of its memory that a process may use."""
OUTBOX_WARN, OUTBOX_BAD = 0.50, 0.90
"""Share of the outbox that may be full."""
LAG_WARN, LAG_BAD = 10.0, 60.0
"""Seconds that something may wait to be stored."""
ANSWERED = 0.95
"""Share of the pings that should be answered."""
ROLLUP_WARN, ROLLUP_BAD = 2 * 3600, 86_400
"""Seconds that an hour which is over may wait to be summed up."""
LOSSES = 1.0
"""Links lost an hour that are worth a word."""
MOST_NAMED = 3
"""Agents that a finding names."""
REFUSED = {
    "bad_token": "give it a token of this hub's with the role agent (--token-file)",
    "unknown_version": "bring it and the hub to versions that know each other",
}
"""What to do about an agent that was turned away, by the code."""

_SET_CLOCK = "set the clock: start chronyd or ntpd there (`chronyc tracking` shows more)"


# -- an agent -----------------------------------------------------------------------------------------------------


def _verdict(facts: Facts) -> Said:
    verdict, evidence = facts["verdict"], facts["evidence"]
    said = f"{verdict}: {', '.join(f'{k} {v}' for k, v in evidence.items())}" if evidence else verdict
    todo = {
        "stalled": "see the agent's log; `nodetap agents --watch` shows whether it recovers",
        "lagging": "see whether the hub's disk keeps up: /metrics, nodetap_hub_commit_seconds",
        "degraded": "more packets than can be sent: narrow --filter or --interface, or add --capture-workers",
    }.get(verdict, "")
    if evidence.get("detector") == "name":
        todo = "two agents use this name in turns: give each its own --node"
    return (WARN if todo else OK), said, todo


def _capture(facts: Facts) -> Said:
    if facts["error"]:
        return BAD, facts["error"], "see the agent's log, and start it again"
    if facts["capture_restarts"]:
        return WARN, f"restarted {facts['capture_restarts']} times, as it hung", "see the stacks in the agent's log"
    return OK, f"{facts['captured']:,} packets", ""


def _rights(facts: Facts) -> Said | None:
    if not facts["live"]:
        return None
    if "net_raw" in facts["capabilities"]:
        return OK, "may capture", ""
    return WARN, "lost CAP_NET_RAW", "new interfaces cannot be captured: run the agent as root or with CAP_NET_RAW"


def _interfaces(facts: Facts) -> Said | None:
    if not facts["live"]:
        return None
    chosen, others = facts["interfaces"], facts["not_chosen"]
    if not chosen:
        return BAD, "captures on none", f"choose with --interface; up are {', '.join(others) or 'none'}"
    left_out = f" (not {', '.join(others)})" if others else ""
    return OK, ", ".join(chosen) + left_out, ""


def _drops(facts: Facts) -> Said | None:
    if not facts["live"]:
        return None
    packets, dropped = facts["kernel_packets"], facts["kernel_dropped"]
    level = by_limit(dropped / packets, DROPS_WARN, DROPS_BAD) if packets else OK
    said = f"{dropped:,} of {packets:,} packets" if dropped else "none"
    todo = "give it a larger --ring-bytes, several --capture-workers, or a narrower --filter"
    return level, said, todo if level != OK else ""


def _ring(facts: Facts) -> Said | None:
    if not facts["live"]:
        return None
    if facts["ring_pressed"]:
        return WARN, "fills up: packet rows are off", "narrow --filter, or share the load with --capture-workers"
    return OK, "has room", ""


def _level(facts: Facts) -> Said:
    if facts["level"] == "packets":
        return OK, "packets", ""
    return WARN, f"{facts['level']} only", "it goes back by itself; if not, see why the hub is slow, or narrow --filter"


def _outbox(facts: Facts) -> Said:
    held, bound, oldest = facts["outbox"]["bytes"], facts["outbox"]["bound"], facts["outbox"]["oldest"]
    level = max(by_limit(held / bound, OUTBOX_WARN, OUTBOX_BAD), by_limit(oldest, LAG_WARN, LAG_BAD), key=_RANK.index)
    said = f"{size(held)} of {size(bound)}, oldest {span(oldest)}" if held else "empty"
    return level, said, "the hub is slower than the agent: see its disk, and `nodetap agents`" if level != OK else ""


_RANK = (OK, WARN, BAD)


def _spool(facts: Facts) -> Said:
    spool = facts["spool"]
    said = f"{size(spool['bytes'])} of {size(spool['bound'])}"
    if spool["failing"]:
        return BAD, f"the disk takes nothing: {spool['failing']}", "see --spool on that node: space, rights, mount"
    if spool["free"] is not None and spool["free"] < spool["bound"] - spool["bytes"]:
        return WARN, f"{said}, {size(spool['free'])} free", "free space there, or lower --spool-bytes"
    if spool["bytes"] > OUTBOX_BAD * spool["bound"]:
        return WARN, said, "it sheds soon: bring the hub back, or raise --spool-bytes"
    return OK, said, ""


def _recorder(facts: Facts) -> Said:
    recorder = facts["recorder"]
    said = f"{size(recorder['bytes'])} of {size(recorder['bound'])}"
    if recorder["oldest"]:
        said += f", the last {span(facts['now'] - recorder['oldest'] / 1e9)}"
    if recorder["failing"]:
        return (
            BAD,
            f"the disk takes nothing: {recorder['failing']}",
            "see --recorder on that node: space, rights, mount",
        )
    if lost := {reason: count for reason, count in recorder["lost"].items() if count}:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in lost.items())
        return WARN, f"{sum(lost.values()):,} frames not recorded ({reasons})", "a faster disk, or a narrower --filter"
    if recorder["free"] is not None and recorder["free"] < recorder["bound"] - recorder["bytes"]:
        return WARN, f"{said}, {size(recorder['free'])} free", "free space there, or lower --recorder-bytes"
    return OK, said, ""


def _memory(facts: Facts) -> Said:
    used, limit = facts["memory"]["resident"], facts["memory"]["limit"]
    if limit is None:
        return OK, size(used), ""
    level = by_limit(used / limit, MEMORY_WARN, MEMORY_BAD)
    todo = "raise its memory limit, or lower --buffer-bytes and --ring-bytes"
    return level, f"{size(used)} of {size(limit)}", todo if level != OK else ""


def _link(facts: Facts) -> Said:
    link = facts["link"]
    said = f"round trip {span(link['round_trip'])} ± {span(link['jitter'])}, {link['pongs']} of {link['pings']} pings"
    due = link["pings"] - 1  # one may be on its way
    if due >= 20 and link["pongs"] < ANSWERED * due:
        return WARN, said, "look at the network between the agent and the hub"
    return OK, said, ""


def _reconnects(facts: Facts) -> Said:
    ended = facts["link"]["ended"]
    lost = sum(ended.values())
    said = " ".join(f"{reason}:{count}" for reason, count in ended.items()) or "none"
    if lost > 1 and lost / max(facts["uptime"] / 3600, 1.0) > LOSSES:
        return WARN, f"{said} in {span(facts['uptime'])}", "see the agent's log for the reasons: `link stalled`"
    return OK, said, ""


def _clock(facts: Facts) -> Said:
    offset = facts["link"]["clock_offset"]
    level = by_limit(abs(offset), CLOCK_WARN, CLOCK_BAD)
    todo = f"the times of its packets are as wrong; {_SET_CLOCK}"
    return level, apart(offset, "the hub's"), todo if level != OK else ""


def _version(facts: Facts) -> Said:
    mine, theirs = facts["software"], facts["hub_software"]
    if mine == theirs:
        return OK, mine, ""
    return WARN, f"{mine}, the hub has {theirs}", "bring both to one version; neighbouring ones work together"


def _certificate(facts: Facts) -> Said | None:
    if not facts["certificate_ends"]:
        return None
    left = cert_time_to_seconds(facts["certificate_ends"]) - facts["now"]
    day = datetime.fromtimestamp(cert_time_to_seconds(facts["certificate_ends"]), UTC).date()
    said = f"ends {day}, in {span(left)}" if left > 0 else f"ended {day}"
    level = by_limit(-left, -CERTIFICATE_WARN, -CERTIFICATE_BAD)
    return level, said, "renew it (--tls-cert) and restart the hub" if level != OK else ""


AGENT = (
    Check("verdict", "what the hub thinks of it", _verdict),
    Check("capture", "whether the capture runs", _capture),
    Check("rights", "CAP_NET_RAW", _rights),
    Check("interfaces", "those captured, and those up that are not", _interfaces),
    Check("drops", "packets for which the kernel's ring had no room", _drops),
    Check("ring", "pressure on the ring", _ring),
    Check("level", "whether packets get rows", _level),
    Check("outbox", "what waits for the hub, and for how long", _outbox),
    Check("spool", "the spool and its disk", _spool),
    Check("recorder", "recorded frames and their disk", _recorder),
    Check("memory", "memory against the control group's limit", _memory),
    Check("link", "round trip, jitter, pings answered", _link),
    Check("reconnects", "links that ended, by reason", _reconnects),
    Check("clock", "its clock against the hub's", _clock),
    Check("version", "its version against the hub's", _version),
    Check("certificate", "until when the hub's certificate holds, as the agent saw it", _certificate),
)


# -- the hub ------------------------------------------------------------------------------------------------------


def _ready(facts: Facts) -> Said:
    if facts["ready"]:
        return OK, f"version {facts['software']}", ""
    return BAD, f"not ready: {facts['reason']}", "see the hub's log"


def _writer(facts: Facts) -> Said:
    stuck, queued = facts["writer"]["stuck"], facts["writer"]["queued"]
    level = by_limit(stuck, LAG_WARN, LAG_BAD)
    under_way = f", a commit for {span(stuck)} under way" if stuck else ""
    said = f"{queued} batches wait{under_way}" if queued or stuck else "nothing waits"
    return level, said, "the store's disk is slow or full; see the hub's log" if level != OK else ""


def _disk(facts: Facts) -> Said:
    if facts["disk"] is None:
        return OK, "the store is on servers of its own", ""
    free, total = facts["disk"]["free"], facts["disk"]["total"]
    level = by_limit(-free / total, -DISK_WARN, -DISK_BAD)
    todo = "free space there, or keep less with --retain-days and --retain-bytes"
    return level, f"{size(free)} of {size(total)} free", todo if level != OK else ""


def _retention(facts: Facts) -> Said:
    keep = facts["retention"]
    stored, bound = keep["stored"], keep["bytes"]
    most = f" or {size(bound)}" if bound else ""
    said = f"{keep['days']} days{most}, {size(stored)} stored"
    if bound and stored > 1.2 * bound:
        return WARN, said, "retention is behind; see the hub's log for `retention failed`"
    return OK, said, ""


def _rollups(facts: Facts) -> Said:
    behind = facts["rollups"]["behind"]
    level = by_limit(behind, ROLLUP_WARN, ROLLUP_BAD)
    said = f"not yet of an hour that ended {span(behind)} ago" if behind else "of every hour that is over"
    return level, said, "see the hub's log for `rolling up failed`" if level != OK else ""


def _ledger(facts: Facts) -> Said:
    if not facts["ledger"]["balanced"]:
        return BAD, "not balanced: packets are unaccounted for", "see `nodetap ledger`, and report this please"
    if not facts["ledger"]["complete"]:
        return WARN, "balanced, not complete", "`nodetap ledger` shows gaps and runs that ended without a word"
    return OK, "balanced, complete", ""


def _agents(facts: Facts) -> Said:
    if facts["agents"]["connected"]:
        return OK, f"{facts['agents']['connected']} connected", ""
    return WARN, "none connected", "start one: nodetap-agent run --hub URL"


def _refused(facts: Facts) -> Said:
    refused = facts["refused"]
    if not refused:
        return OK, "none", ""
    said = [_of_one(one) for one in refused[:MOST_NAMED]]
    more = [f"{len(refused) - MOST_NAMED} more"] if len(refused) > MOST_NAMED else []
    todo = {REFUSED.get(one["code"], "see the log of the agent") for one in refused}
    return WARN, "; ".join(said + more), "; ".join(sorted(todo))


def _of_one(refused: Facts) -> str:
    often = "once" if refused["times"] == 1 else f"{refused['times']} times"
    return f"{refused['client']}: {refused['reason']} ({often}, {span(max(1.0, refused['ago']))} ago)"


HUB = (
    Check("ready", "whether it takes work", _ready),
    Check("writer", "how far the writer is behind", _writer),
    Check("disk", "space for the store", _disk),
    Check("retention", "whether it keeps up", _retention),
    Check("rollups", "whether rows are summed up", _rollups),
    Check("ledger", "whether the books balance and are complete", _ledger),
    Check("agents", "whether any are connected", _agents),
    Check("refused", "agents that were turned away lately", _refused),
)


# -- where the person sits ----------------------------------------------------------------------------------------


def _reach(facts: Facts) -> Said:
    return OK, f"{facts['url']} answers in {span(facts['round_trip'])}", ""


def _token(facts: Facts) -> Said:
    return OK, "taken" if facts["token"] else "none given, none wanted", ""


def _here_version(facts: Facts) -> Said:
    if facts["software"] == facts["hub_software"]:
        return OK, facts["software"], ""
    return WARN, f"{facts['software']}, the hub has {facts['hub_software']}", "bring both to one version"


def _here_clock(facts: Facts) -> Said:
    level = by_limit(abs(facts["clock_offset"]), CLOCK_WARN, CLOCK_BAD)
    todo = f"times given to --since and --until are as wrong; {_SET_CLOCK.replace(' there', '')}"
    return level, apart(facts["clock_offset"], "the hub's"), todo if level != OK else ""


HERE = (
    Check("hub", "whether the hub answers, and how fast", _reach),
    Check("token", "whether the hub takes it", _token),
    Check("certificate", "until when the hub's certificate holds", _certificate),
    Check("version", "version of `nodetap` against the hub's", _here_version),
    Check("clock", "this machine's clock against the hub's", _here_clock),
)
