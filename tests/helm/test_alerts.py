"""Every alert fires when it should and keeps silent when it should, as `promtool test rules` tells."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
ALERTS = ROOT / "helm" / "nodetap" / "files" / "alerts.yaml"
DAY = 86_400


@dataclass(frozen=True)
class Case:
    """One alert. Series in promtool's notation, one value every 30 s; times in minutes."""

    alert: str
    fires: dict[str, str]
    at: float  # when it fires
    not_yet: float | None  # when it does not, on the same series
    silent: tuple[dict[str, str], ...]  # what never makes it fire
    count: int = 1


def _shares(dropped: str, seen: str = "0+100000x60") -> dict[str, str]:
    return {
        'nodetap_agent_kernel_dropped_packets_total{instance="a"}': dropped,
        'nodetap_agent_kernel_packets_total{instance="a"}': seen,
    }


def _disk(free: str) -> dict[str, str]:
    return {"nodetap_hub_disk_free_bytes": free, "nodetap_hub_disk_size_bytes": "100x60"}


def _one(name: str, values: str) -> dict[str, str]:
    return {name: values}


STALLED, GONE = 'nodetap_hub_agents{verdict="stalled"}', 'nodetap_hub_agents{verdict="gone"}'
STALLS = 'nodetap_agent_stalls_total{instance="a", detector="%s"}'
LOST = 'nodetap_agent_lost_packets_total{instance="a", reason="%s"}'
ENDS = "nodetap_hub_certificate_not_after_timestamp_seconds"
TOKEN = 'nodetap_hub_connections_refused_total{code="%s"}'

CASES = (
    Case("NodetapAgentStalled", _one(STALLED, "0x4 2x60"), 10, 2.5, (_one(STALLED, "0x60"), _one(STALLED, "0 1 0x60"))),
    Case("NodetapAgentGone", _one(GONE, "1x60"), 10, 4, (_one(GONE, "0x60"),)),
    Case(
        "NodetapAgentsStallAgainAndAgain", {STALLS % "progress": "0+1x60", STALLS % "echo": "0x60"}, 20, 1,
        ({STALLS % "progress": "0 1 1 2x60", STALLS % "loop": "0x60"},),
    ),
    Case("NodetapKernelDrops", _shares("0+20x60"), 20, 8, (
        _shares("0x60"), _shares("0+5x60"), _shares("0x60", "5x60"),
    )),
    Case("NodetapKernelDropsMany", _shares("0+2000x60"), 12, 4, (_shares("0+500x60"), _shares("0 50000x60"))),
    Case("NodetapShedding", _one(LOST % "shed", "0+10x60"), 12, 4, (
        _one(LOST % "shed", "70x60"), _one(LOST % "in_doubt", "0+10x60"),
    )),
    Case("NodetapPacketsLost", _one(LOST % "in_doubt", "0x10 25x60"), 10, 4, (
        _one(LOST % "in_doubt", "25x60"), _one(LOST % "shed", "0+10x60"),
    )),
    Case("NodetapFlowsOnly", _one('nodetap_agent_degraded{instance="a"}', "1x60"), 20, 14, (
        _one('nodetap_agent_degraded{instance="a"}', "1x20 0 1x60"),
    )),
    Case("NodetapSpoolFails", _one('nodetap_agent_spool_failing{instance="a"}', "1x60"), 10, 4, (
        _one('nodetap_agent_spool_failing{instance="a"}', "0x60"),
    )),
    Case("NodetapHubAbsent", _one("nodetap_hub_sessions", "3x4 _x60"), 20, 8, (_one("nodetap_hub_sessions", "0x60"),)),
    Case("NodetapLedgerOutOfBalance", _one("nodetap_hub_unbalanced_runs", "0x4 1x60"), 20, 6, (
        _one("nodetap_hub_unbalanced_runs", "0 1 0x60"),
    )),
    Case("NodetapHubLags", {
        'nodetap_hub_agent_oldest_unacknowledged_seconds{agent="a"}': "0+30x60",
        'nodetap_hub_agent_oldest_unacknowledged_seconds{agent="b"}': "5x60",
    }, 20, 5, (_one('nodetap_hub_agent_oldest_unacknowledged_seconds{agent="a"}', "59x60"),)),
    Case("NodetapHubWriterStuck", _one("nodetap_hub_writer_stuck_seconds", "0+30x60"), 2, 0.5, (
        _one("nodetap_hub_writer_stuck_seconds", "0 10 0 15x60"),
    )),
    Case("NodetapHubCannotStore", _one("nodetap_hub_store_failing", "0x4 1x60"), 5, 2.5, (
        _one("nodetap_hub_store_failing", "0 1 0x60"),
    )),
    Case("NodetapHubRollupBehind", _one("nodetap_hub_rollup_behind_seconds", "7000+30x100"), 40, 30, (
        _one("nodetap_hub_rollup_behind_seconds", "0x100"), _one("nodetap_hub_rollup_behind_seconds", "90000x20 0x80"),
    )),
    Case("NodetapHubDiskNearlyFull", _disk("9x60"), 15, 9, (_disk("11x60"),)),
    Case("NodetapHubDiskFull", _disk("2x60"), 2, 0.5, (_disk("4x60"),)),
    Case("NodetapCertificateEndsSoon", _one(ENDS, f"{14 * DAY + 300}x60"), 6, 4, (_one(ENDS, f"{30 * DAY}x60"),)),
    Case("NodetapCertificateEnds", _one(ENDS, f"{3 * DAY + 300}x60"), 6, 4, (_one(ENDS, f"{10 * DAY}x60"),)),
    Case("NodetapBadToken", _one(TOKEN % "bad_token", "0+1x60"), 20, 8, (
        _one(TOKEN % "bad_token", "0 3x60"), _one(TOKEN % "busy", "0+1x60"),
    )),
    Case("NodetapBatchesRefused", _one('nodetap_hub_batches_refused_total{code="bad_column"}', "0x10 2x60"), 10, 4, (
        _one('nodetap_hub_batches_refused_total{code="bad_column"}', "2x60"),
    )),
    Case("NodetapNamesBehind", {
        "nodetap_hub_names_behind_seconds": "0+30x60", "nodetap_hub_names_listings": "3x60",
    }, 20, 9, (
        {"nodetap_hub_names_behind_seconds": "70x60", "nodetap_hub_names_listings": "7x60"},
        {"nodetap_hub_names_behind_seconds": "0x60", "nodetap_hub_names_listings": "0x4 3x60"},
    )),
    Case("NodetapClockOff", {
        'nodetap_hub_agent_clock_offset_seconds{agent="a"}': "-7.5x60",
        'nodetap_hub_agent_clock_offset_seconds{agent="b"}': "0.1x60",
    }, 15, 9, (_one('nodetap_hub_agent_clock_offset_seconds{agent="a"}', "-1.5x60"),)),
)  # fmt: skip


def test_every_alert_has_a_case() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert sorted(rule["alert"] for rule in rules) == sorted(case.alert for case in CASES)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_alerts_fire_and_keep_silent(tmp_path: Path) -> None:
    tests = []
    for case in CASES:
        times = [(case.at, case.count)] + ([] if case.not_yet is None else [(case.not_yet, 0)])
        tests.append(_test(case, "fires", case.fires, times))
        tests += [
            _test(case, f"silent {n}", series, [(m, 0) for m in (5, 12, 25)]) for n, series in enumerate(case.silent)
        ]
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(case: Case, name: str, series: dict[str, str], times: list[tuple[float, int]]) -> dict[str, object]:
    expr = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}}) or vector(0)'
    return {
        "name": f"{case.alert} {name}",
        "interval": "30s",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{int(minutes * 60)}s", "exp_samples": [{"labels": "{}", "value": number}]}
            for minutes, number in times
        ],
    }


def test_what_people_read_is_one_line(tmp_path: Path) -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert "\n" not in json.dumps(rule["annotations"], ensure_ascii=False)
            assert rule["annotations"]["summary"][-1] != "."
