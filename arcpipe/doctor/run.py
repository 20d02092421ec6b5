"""Run all checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from arcpipe.doctor.finding import DoctorReport, Finding, guarded
from arcpipe.doctor.machine import cores, devices, limits, memory
from arcpipe.doctor.network import cluster, loopback
from arcpipe.doctor.place import place, speed
from arcpipe.doctor.versions import extras, kernel, versions
from arcpipe.storage import Storage


def run_doctor(out: Storage) -> DoctorReport:
    """Look at this machine, and at the place where a store would be made; leaves nothing behind.

    Raises nothing: what cannot be looked at is a finding.
    """
    started = time.monotonic()
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "versions": versions,
        "extras": extras,
        "devices": devices,
        "kernel": kernel,
        "cores": cores,
        "memory": memory,
        "limits": limits,
        "place": partial(place, out),
        "speed": partial(speed, out),
        "loopback": loopback,
        "cluster": cluster,
    }
    findings: list[Finding] = []
    for name, look in checks.items():
        findings += guarded(name, look)
    return DoctorReport(tuple(findings), time.monotonic() - started)
