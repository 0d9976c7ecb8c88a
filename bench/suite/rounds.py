"""Goes through the rounds: every server in turn, every second round in the opposite order."""

import sys
import time

from suite.processes import LeftOut
from suite.servers import started

BEGAN = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - BEGAN:4.0f}s] {text}", file=sys.stderr, flush=True)


def subjects_of(topics):
    """Of all topics, each once, in their order."""
    return list({subject.name: subject for topic in topics for subject in topic.subjects}.values())


def run_pass(run, topics, rounds):
    """Measures topics that share a start of each server; the results go to run.topics."""
    for topic in topics:
        empty = {"rounds": [{} for _ in range(rounds)], "left_out": dict(topic.left_out)}
        run.topics[topic.name] = empty
    names = ", ".join(topic.name for topic in topics)
    for number in range(rounds):
        subjects = subjects_of(topics)
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            measure_subject(run, topics, subject, number)
        say(f"{names}: round {number + 1} of {rounds}")


def measure_subject(run, topics, subject, number):
    """A server that fails is left out of the topic from then on, with the reason."""
    open_topics = [
        topic
        for topic in topics
        if any(subject is one for one in topic.subjects)
        and subject.name not in run.topics[topic.name]["left_out"]
    ]
    if not open_topics:
        return
    current = open_topics[0]
    try:
        with started(run.place, subject) as running:
            for current in open_topics:
                result = current.measure(run, subject, running)
                run.topics[current.name]["rounds"][number][subject.name] = result
    except (LeftOut, OSError, ValueError, KeyError) as error:
        reason = str(error) if isinstance(error, LeftOut) else repr(error)
        # Without a start, or after it went wrong, the later topics have nothing to measure either.
        for topic in open_topics[open_topics.index(current) :]:
            run.topics[topic.name]["left_out"][subject.name] = reason
        say(f"left out: {subject.name}, {current.name}: {reason}")
