#!/usr/bin/env python3
"""Runs everything in this folder on both engines, one after the other: the figures as JSON, one file
each, and a short table of them, figures.md, in a folder."""

import argparse
import os
import sys

import place

import descriptor_limit
import flood
import kill_backends
import kill_successors
import kill_workers
import stop_backends

PARTS = {
    "kill_backends": kill_backends.run,
    "kill_workers": kill_workers.run,
    "kill_successors": kill_successors.run,
    "stop_backends": stop_backends.run,
    "flood": flood.run,
    "descriptor_limit": descriptor_limit.run,
}
# A flood and a limit are many measurements each: these are the shares of --seconds of one.
SHARE = {"flood": 1 / 6, "descriptor_limit": 1 / 12}


def row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def table(head, rows):
    if not rows:
        return ""
    return row(*head) + row(*["---"] * len(head)) + "".join(row(*one) for one in rows) + "\n"


def kills_table(all_figures):
    names = {
        "kills": "kills",
        "told '+'": "told_plus",
        "answered": "answered",
        "lost with a backend": "told_plus_and_not_answered",
        "not counted by anybody": "told_plus_and_not_counted",
        "kills in doubt": "kills_in_doubt",
        "lost in the mux or in a queue": "lost_in_mux_or_queue",
        "taken back": "taken_back",
    }
    rows = [
        [one["what"], one["engine"], *[one[name] for name in names.values()]]
        for one in all_figures
        if "kills" in one
    ]
    return table(["what", "engine", *names], rows)


def successors_table(all_figures):
    head = ["engine", "successors killed", "when they served", "upgrades", "clients", "served"]
    rows = [
        [
            *[one["engine"], one["successors_killed"], one["killed_when_they_served"]],
            *[one["upgrades"], one["clients"], one["served"]],
        ]
        for one in all_figures
        if "successors_killed" in one
    ]
    return table(head, rows)


def stops_table(all_figures):
    head = ["engine", "stops", "stall_ms", "told '+'", "answered", "taken back", "longest wait, s"]
    head += ["... of who was in the hands of a stopped one, s"]
    rows = [
        [
            *[one["engine"], one["stops"], one["stall_ms"], one["told_plus"], one["answered"]],
            one["taken_back"],
            one["longest_wait_s"]["all_others"],
            one["longest_wait_s"]["in_the_hands_of_a_stopped_one"],
        ]
        for one in all_figures
        if "stops" in one
    ]
    return table(head, rows)


def floods_table(all_figures):
    head = ["flood", "engine", "flood/s", "served", "p50 us", "p99 us", "max us", "daemon's CPU %"]
    rows = []
    for one in (one for one in all_figures if "floods" in one):
        cases = [("none", "", one["without"], "")]
        cases += [
            (name, case["flood_per_second"], case["good"], case["daemon_cpu_percent"])
            for name, case in one["floods"].items()
        ]
        rows += [
            [
                *[name, one["engine"], rate, f"{good['served']} of {good['clients']}"],
                *[round(good[f"{time}_us"]) for time in ["p50", "p99", "max"]],
                cpu,
            ]
            for name, rate, good, cpu in cases
        ]
    return table(head, rows)


def limits_table(all_figures):
    head = ["limit", "engine", "idle clients", "others meanwhile", "longest ms", "CPU %"]
    head += ["CPU % without any descriptor", "who waited then", "served again after ms"]
    rows = [
        [
            *[case["limit"], one["engine"], case["idle_clients_that_came"]],
            outcomes(case["while_they_stay"]["outcomes"]),
            case["while_they_stay"]["longest_ms"],
            case["cpu_percent_while_they_stay"],
            case["limit_taken_away"]["cpu_percent_without_it"],
            outcomes(case["limit_taken_away"]["outcomes"]),
            case["served_again_after_ms"],
        ]
        for one in all_figures
        if "limits" in one
        for case in one["limits"]
    ]
    return table(head, rows)


def outcomes(counts):
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def summary(all_figures):
    broken = [f"{one['engine']}: {what}" for one in all_figures for what in one["broken"]]
    verdict = "All is as promised.\n\n" if not broken else "BROKEN:\n\n"
    text = verdict + "".join(f"- {one}\n" for one in broken) + ("\n" if broken else "")
    for make in [kills_table, successors_table, stops_table, floods_table, limits_table]:
        text += make(all_figures)
    return text.rstrip("\n") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="DIR", required=True, help="where the figures go")
    parser.add_argument(
        "--seconds", type=float, default=120, help="of each run under load (default 120)"
    )
    parser.add_argument("--engine", action="append", choices=["io_uring", "epoll"])
    parser.add_argument("--only", action="append", choices=sorted(PARTS))
    parser.add_argument("--bin", metavar="DIR", help="where tcpmuxd is (default build/bin)")
    options = parser.parse_args()
    place.find_binaries(options.bin)
    os.makedirs(options.out, exist_ok=True)
    all_figures = []
    for name in options.only or PARTS:
        for engine in options.engine or ["io_uring", "epoll"]:
            print(f"{name}, {engine} ...", file=sys.stderr, flush=True)
            figures = PARTS[name](engine, options.seconds * SHARE.get(name, 1))
            place.write_json(os.path.join(options.out, f"{name}-{engine}.json"), figures)
            all_figures.append(figures)
    text = summary(all_figures)
    with open(os.path.join(options.out, "figures.md"), "w", encoding="utf-8") as file:
        file.write(text)
    print(text)
    return 1 if any(one["broken"] for one in all_figures) else 0


if __name__ == "__main__":
    sys.exit(main())
