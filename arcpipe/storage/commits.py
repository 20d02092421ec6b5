"""Committing to an object store, which has no rename: arrays first, `zarr.json` last, and one attempt decides.

Two attempts at one part may differ in bytes (another processor rounds otherwise), and keys in a Zarr hierarchy are
fixed, so their files must never mix. Therefore:

1. An attempt is written and checked in a local folder, then put below `.attempts/<split>-<part>/<attempt>/`.
2. It is chosen by creating `.attempts/<split>-<part>/chosen`, if absent. One attempt wins.
3. Whoever finds a choice (winner, loser, the next run) carries it out: copies the chosen files to their final keys
   inside the bucket, reads them back, and creates the group's `zarr.json`, if absent. All copy the same bytes, so that
   it does no harm to do it twice, or half, or late.
4. Then the attempts of this part are deleted. A choice that is made after that finds the part committed, and stops.

So a commit needs no lock and no clock, only create-if-absent and that a read sees what was written before.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from arcpipe.errors import DamagedStoreError, StoreBusyError
from arcpipe.files import attempt_tag, file_hashes
from arcpipe.storage import objects
from arcpipe.storage.objects import Address
from arcpipe.storage.protocol import ATTEMPTS

TRIES = 4  # of carrying out a choice that vanishes meanwhile

Files = dict[str, dict[str, int | str]]


@dataclass(frozen=True)
class Choice:
    """The attempt that becomes a group. `files`: bytes and sha256 of each, by name below the group."""

    attempt: str
    target: str
    files: Files


def publish(attempt: Path, store: Address, group: str) -> bool:
    """Commit the local folder `attempt` as a group of `store`. False where another one was committed.

    Raises:
        DamagedStoreError: what was read back is not what was written.
        StoreBusyError: somebody keeps deleting what is put.
        RemoteStoreError, FileAccessError, NoSpaceError: the service's refusals.
    """
    tag, files = attempt_tag(), file_hashes(attempt)
    place, final = _place(store, group), store.at(group)
    try:
        for _ in range(TRIES):
            choice = _read_choice(place)
            if choice is None:
                if _committed(final):
                    return False
                objects.each(lambda name: objects.put(place.at(tag).at(name), attempt / name), files)
                choice = _choose(place, Choice(tag, group, files))
            if choice is None:
                continue
            if _carry_out(place, choice, final):
                return choice.attempt == tag
            # Its files were deleted and it is not committed: nobody can carry it out any more.
            objects.delete(place.root, [place.at("chosen").key])
    finally:
        with contextlib.suppress(Exception), objects.impatient():
            if _read_choice(place) is None:  # ours was never chosen
                objects.delete_below(place.at(tag))
    raise StoreBusyError(f"{final} appears and disappears.", fix=["run the same command again"])


def recover(store: Address) -> int:
    """Carry out the choices that killed runs left. Returns how many."""
    done = 0
    for key in objects.folders(store.at(ATTEMPTS)):
        place = Address(store.root, key)
        choice = _read_choice(place)
        if choice is not None:
            _carry_out(place, choice, store.at(choice.target))
            done += 1
    return done


def drop(store: Address, group: str) -> None:
    """Take a committed group back: first what could commit it again, then its `zarr.json`, then its files."""
    objects.delete_below(_place(store, group))
    objects.delete(store.root, [store.at(group).at("zarr.json").key])
    objects.delete_below(store.at(group))


def _carry_out(place: Address, choice: Choice, final: Address) -> bool:
    """Make a choice the group `final`. False where its files have gone and nothing is committed: dropped meanwhile."""
    if not _committed(final):
        payload = place.at(choice.attempt)
        names = [name for name in choice.files if name != "zarr.json"]
        try:
            objects.each(lambda name: objects.copy(payload.at(name), final.at(name)), names)
            document = objects.get(payload.at("zarr.json"))
            objects.each(lambda name: _require_same(final.at(name), choice.files[name]), names)
        except FileNotFoundError:  # they are deleted once the part is committed
            if not _committed(final):
                return False
        else:
            with contextlib.suppress(FileExistsError):  # by another one, from the same files
                objects.create(final.at("zarr.json"), document)
    objects.delete_below(place)
    return True


def _choose(place: Address, choice: Choice) -> Choice | None:
    try:
        objects.create(place.at("chosen"), (json.dumps(asdict(choice), indent=1) + "\n").encode())
    except FileExistsError:
        return _read_choice(place)
    return choice


def _read_choice(place: Address) -> Choice | None:
    try:
        document = json.loads(objects.get(place.at("chosen")))
    except FileNotFoundError:
        return None
    return Choice(**document)


def _require_same(address: Address, expected: dict[str, int | str]) -> None:
    if objects.sha256(address) != expected["sha256"]:
        raise DamagedStoreError(
            f"{address} is not what was written when it was read back.",
            details=["the service or the network changes bytes"],
            fix=["run the same command again", "if it comes back, tell whoever runs the service"],
        )


def _committed(group: Address) -> bool:
    return objects.exists(group.at("zarr.json"))


def _place(store: Address, group: str) -> Address:
    return store.at(ATTEMPTS).at(group.replace("/", "-") or "store")
