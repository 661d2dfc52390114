"""Trains a small click model on a sealed batch, and prints how well it foretells clicks that it has not seen.

    python examples/train_click_model.py BATCH_ID [--target 127.0.0.1:50051] [--events-limit N]

The model is position-based: a result is clicked if it is examined, which depends on its position only, and if it
attracts, which depends on the object only. EM finds both (Chuklin, Markov, de Rijke: Click Models for Web Search, 2015,
section 3.3). Attraction is pulled towards its mean, so that objects that were shown a few times only are not believed
too much. It needs numpy, and no more of this project than the client.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from clickstream import ClickstreamError, MessageTooLarge, SyncClickstreamClient
from clickstream.datasets import BatchExamples

ROUNDS = 100
HELD_OUT_EVERY = 5
PULL = 15.0
"""Attraction counts as if every object had been seen this many times more, with the mean attraction."""
LEAST = 1e-6
POSITIONS_TOLD = 20


@dataclass
class Shown:
    """All results that were shown, one row each."""

    positions: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    clicked: list[bool] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    sessions: int = 0

    @classmethod
    def read(cls, target: str, batch_id: str, events_limit: int | None) -> Shown:
        shown, known = cls(), dict[str, int]()
        with SyncClickstreamClient(target) as client:
            for example in BatchExamples(client, batch_id, events_limit=events_limit):
                shown.sessions += 1
                held_out = crc32(example["session_id"].encode()) % HELD_OUT_EVERY == 0
                for position, result in enumerate(example["results"]):
                    shown.positions.append(position)
                    shown.objects.append(known.setdefault(result["object_id"], len(known)))
                    shown.clicked.append(result["clicks"] > 0)
                    shown.held_out.append(held_out)
        return shown


def rate_by_position(positions: np.ndarray, clicked: np.ndarray, count: int) -> np.ndarray:
    """The baseline: how often each position was clicked, whatever was shown there."""
    return (np.bincount(positions, clicked, count) + 1) / (np.bincount(positions, minlength=count) + 2)


def position_based_model(
    positions: np.ndarray, objects: np.ndarray, clicked: np.ndarray, places: int, things: int
) -> tuple[np.ndarray, np.ndarray]:
    """How likely each position is examined (the first always), and how likely each object attracts."""
    examined, attracts = np.full(places, 0.5), np.full(things, 0.5)
    shown_at = np.bincount(positions, minlength=places)
    shown_of = np.bincount(objects, minlength=things)
    for _ in range(ROUNDS):
        seen, good = examined[positions], attracts[objects]
        missed = np.maximum(1 - seen * good, LEAST)
        was_seen = np.where(clicked, 1, seen * (1 - good) / missed)
        was_good = np.where(clicked, 1, good * (1 - seen) / missed)
        examined = (np.bincount(positions, was_seen, places) + 1) / (shown_at + 2)
        attracts = (np.bincount(objects, was_good, things) + PULL * was_good.mean()) / (shown_of + PULL)
        attracts, examined = np.minimum(attracts * examined[0], 1), np.minimum(examined / examined[0], 1)
    return examined, attracts


def log_likelihood(foretold: np.ndarray, clicked: np.ndarray) -> float:
    """For one result, in nats; 0 would be a prophet."""
    likely = np.clip(foretold, LEAST, 1 - LEAST)
    return float(np.log(np.where(clicked, likely, 1 - likely)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("batch_id", help="a sealed batch")
    target = os.environ.get("CLICKSTREAM_TARGET") or "127.0.0.1:50051"
    parser.add_argument("--target", default=target, help="the server (%(default)s)")
    parser.add_argument(
        "--events-limit",
        type=int,
        metavar="N",
        help="the first N events of a session only, so that its later clicks do not count (default: all, which have to "
        "fit into a message)",
    )
    given = parser.parse_args()
    try:
        shown = Shown.read(given.target, given.batch_id, given.events_limit)
    except MessageTooLarge as error:  # it names the field of the request
        parser.exit(1, f"{error}\n".replace("events_limit", "--events-limit"))
    except (ClickstreamError, ValueError) as error:  # no such batch, one that still collects, no server
        parser.exit(1, f"{error}\n")
    positions, objects = np.array(shown.positions, int), np.array(shown.objects, int)
    clicked, test = np.array(shown.clicked, bool), np.array(shown.held_out, bool)
    if not clicked[~test].any() or not test.any():
        parser.exit(1, f"{len(clicked)} results with {clicked.sum()} clicks are too few to train and to test on\n")

    places, things = positions.max() + 1, objects.max() + 1
    rates = rate_by_position(positions[~test], clicked[~test], places)
    examined, attracts = position_based_model(positions[~test], objects[~test], clicked[~test], places, things)
    print(f"{shown.sessions:,} sessions, {len(clicked):,} results shown, {clicked.sum():,} of them clicked")
    print(f"held out: {test.sum():,} results, those of every {HELD_OUT_EVERY}th session or so")
    for name, foretold in (
        ("click rate by position", rates[positions]),
        ("model", examined[positions] * attracts[objects]),
    ):
        found = log_likelihood(foretold[test], clicked[test])
        print(f"{name + ':':<24}log-likelihood {found:.4f}, perplexity {np.exp(-found):.4f}")
    print("examined, by position:  " + " ".join(f"{chance:.2f}" for chance in examined[:POSITIONS_TOLD]))


if __name__ == "__main__":
    main()
